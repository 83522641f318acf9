"""Studies of the paper's argument: each measures, and writes a page that explains itself.

`resnets.study.depth` and `resnets.study.shortcuts` are those of the public API.
"""

from typing import TYPE_CHECKING

from resnets.utils.imports import lazy_exports

if TYPE_CHECKING:
    from resnets.study.run import Study, depth, shortcuts

__all__ = ["Study", "depth", "shortcuts"]

lazy_exports(__name__, dict.fromkeys(__all__, "resnets.study.run"))
