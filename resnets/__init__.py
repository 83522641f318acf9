"""Train, study and deploy deep residual networks (He et al., CVPR 2016).

    import resnets

    run = resnets.train("digits", epochs=5)
    run.result["test"]["top1_error"]
    resnets.predict(run, "scan.png")

`__all__` lists the public API, which docs/api.md describes. Names are imported at first use, so
that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnets.utils.imports import disable_telemetry, lazy_exports
from resnets.utils.machine import cpu_count, mps_fallback

if TYPE_CHECKING:
    from resnets import recipes, study
    from resnets.api.data.check import check_data
    from resnets.api.data.open import open_data
    from resnets.api.data.pack import pack_data, verify_pack
    from resnets.api.data.predict import predict_data
    from resnets.api.evaluate import evaluate
    from resnets.api.export import export
    from resnets.api.features import features
    from resnets.api.load import load
    from resnets.api.predict import predict
    from resnets.api.push import push
    from resnets.api.recompute_norm import recompute_norm
    from resnets.api.run import Run
    from resnets.api.train import train
    from resnets.api.tune import tune
    from resnets.bulk.pool import WorkerError
    from resnets.config import (
        AugmentSpec,
        ConfigError,
        DataSpec,
        DetectSpec,
        DistillSpec,
        EvalSpec,
        FinetuneSpec,
        LossSpec,
        ModelSpec,
        OptimSpec,
        Preprocess,
        Recipe,
        ScheduleSpec,
    )
    from resnets.data import DataError
    from resnets.export.verify import VerificationError
    from resnets.models import ImageClassifier
    from resnets.models.catalog import list_models
    from resnets.train.guards.divergence import Diverged
    from resnets.train.guards.interrupt import Interrupted
    from resnets.train.replay import replay
    from resnets.utils.errors import OutOfMemory, ResnetsError
    from resnets.weights.create import create_model
    from resnets.weights.errors import CheckpointError, WeightsError

    __version__: str

__all__ = [
    "AugmentSpec",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DataSpec",
    "DetectSpec",
    "DistillSpec",
    "Diverged",
    "EvalSpec",
    "FinetuneSpec",
    "ImageClassifier",
    "Interrupted",
    "LossSpec",
    "ModelSpec",
    "OptimSpec",
    "OutOfMemory",
    "Preprocess",
    "Recipe",
    "ResnetsError",
    "Run",
    "ScheduleSpec",
    "VerificationError",
    "WeightsError",
    "WorkerError",
    "__version__",
    "check_data",
    "create_model",
    "evaluate",
    "export",
    "features",
    "list_models",
    "load",
    "open_data",
    "pack_data",
    "predict",
    "predict_data",
    "push",
    "recipes",
    "recompute_norm",
    "replay",
    "study",
    "train",
    "tune",
    "verify_pack",
]

disable_telemetry()
mps_fallback.enable()  # before torch is imported
cpu_count.limit_threads()

_CONFIG = (
    "AugmentSpec ConfigError DataSpec DetectSpec DistillSpec EvalSpec FinetuneSpec LossSpec"
    " ModelSpec OptimSpec Preprocess Recipe ScheduleSpec"
)
lazy_exports(
    __name__,
    dict.fromkeys(_CONFIG.split(), "resnets.config")
    | {
        "CheckpointError": "resnets.weights.errors",
        "DataError": "resnets.data",
        "Diverged": "resnets.train.guards.divergence",
        "ImageClassifier": "resnets.models",
        "Interrupted": "resnets.train.guards.interrupt",
        "OutOfMemory": "resnets.utils.errors",
        "ResnetsError": "resnets.utils.errors",
        "Run": "resnets.api.run",
        "VerificationError": "resnets.export.verify",
        "WeightsError": "resnets.weights.errors",
        "WorkerError": "resnets.bulk.pool",
        "__version__": "resnets.api",
        "check_data": "resnets.api.data.check",
        "create_model": "resnets.weights.create",
        "evaluate": "resnets.api.evaluate",
        "export": "resnets.api.export",
        "features": "resnets.api.features",
        "list_models": "resnets.models.catalog",
        "load": "resnets.api.load",
        "open_data": "resnets.api.data.open",
        "pack_data": "resnets.api.data.pack",
        "predict": "resnets.api.predict",
        "predict_data": "resnets.api.data.predict",
        "push": "resnets.api.push",
        "recipes": "resnets.recipes",
        "recompute_norm": "resnets.api.recompute_norm",
        "replay": "resnets.train.replay",
        "study": "resnets.study",
        "train": "resnets.api.train",
        "tune": "resnets.api.tune",
        "verify_pack": "resnets.api.data.pack",
    },
)
