"""Studies of the paper's argument: each measures, and writes a page that explains itself.

`resnets.study.depth`, `.forms`, `.shortcuts` and `.folds` are those of the public API.
"""

from typing import TYPE_CHECKING

from resnets.utils.imports import lazy_exports

if TYPE_CHECKING:
    from resnets.study.folds.study import Folds, folds
    from resnets.study.run import Study, depth, forms, shortcuts

__all__ = ["Folds", "Study", "depth", "folds", "forms", "shortcuts"]

lazy_exports(
    __name__,
    dict.fromkeys(("Study", "depth", "forms", "shortcuts"), "resnets.study.run")
    | dict.fromkeys(("Folds", "folds"), "resnets.study.folds.study"),
)
