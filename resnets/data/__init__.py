"""Stored bytes -> source -> split -> order -> decode -> augment -> batch."""

from resnets.data.batch import Batch
from resnets.data.dataset.split import FileSplit, Split, TensorSplit
from resnets.data.errors import DataError
from resnets.data.loading.loader import TrainStream, eval_batches
from resnets.data.splits.open import Splits, open_data
from resnets.data.transforms.preprocess import Preprocessor, fit_preprocess, prepare

__all__ = [
    "Batch",
    "DataError",
    "FileSplit",
    "Preprocessor",
    "Split",
    "Splits",
    "TensorSplit",
    "TrainStream",
    "eval_batches",
    "fit_preprocess",
    "open_data",
    "prepare",
]
