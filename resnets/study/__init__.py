"""Studies of the paper's argument: each measures, and writes a page that explains itself.

`resnets.study.depth`, `.forms`, `.shortcuts`, `.folds` and `.data` are those of the public API.
"""

from typing import TYPE_CHECKING

from resnets.utils.imports import lazy_exports

if TYPE_CHECKING:
    from resnets.study.data_curve import LearningCurve, data
    from resnets.study.folds.study import Folds, folds
    from resnets.study.run import Study, depth, forms, shortcuts

__all__ = ["Folds", "LearningCurve", "Study", "data", "depth", "folds", "forms", "shortcuts"]

lazy_exports(
    __name__,
    dict.fromkeys(("Study", "depth", "forms", "shortcuts"), "resnets.study.run")
    | dict.fromkeys(("LearningCurve", "data"), "resnets.study.data_curve")
    | dict.fromkeys(("Folds", "folds"), "resnets.study.folds.study"),
)
