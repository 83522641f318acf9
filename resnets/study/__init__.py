"""Studies of residual learning: each measures, and writes a page with explanations.

The names in `__all__` are public.
"""

from typing import TYPE_CHECKING

from resnets.utils.imports import lazy_exports

if TYPE_CHECKING:
    from resnets.report.page import StudyResult, write_index
    from resnets.study.analyze import (
        curvature,
        effective,
        identity,
        inference,
        landscape,
        responses,
        shattered,
        similarity,
        unravelled,
    )
    from resnets.study.data_curve import LearningCurve, data
    from resnets.study.folds.study import Folds, folds
    from resnets.study.gradients.study import gradients
    from resnets.study.run import Study, depth, forms, shortcuts

__all__ = [
    "Folds",
    "LearningCurve",
    "Study",
    "StudyResult",
    "curvature",
    "data",
    "depth",
    "effective",
    "folds",
    "forms",
    "gradients",
    "identity",
    "inference",
    "landscape",
    "responses",
    "shattered",
    "shortcuts",
    "similarity",
    "unravelled",
    "write_index",
]

_ANALYSES = (
    "curvature effective identity inference landscape responses shattered similarity unravelled"
)

lazy_exports(
    __name__,
    dict.fromkeys(("Study", "depth", "forms", "shortcuts"), "resnets.study.run")
    | dict.fromkeys(("LearningCurve", "data"), "resnets.study.data_curve")
    | dict.fromkeys(("Folds", "folds"), "resnets.study.folds.study")
    | dict.fromkeys(_ANALYSES.split(), "resnets.study.analyze")
    | dict.fromkeys(("StudyResult", "write_index"), "resnets.report.page")
    | {"gradients": "resnets.study.gradients.study"},
)
