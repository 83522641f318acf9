"""Stored bytes -> source -> split -> order -> decode -> augment -> batch."""

from resnets.data.batch import Batch
from resnets.data.errors import DataError
from resnets.data.loader import TrainStream, eval_batches
from resnets.data.preprocess import Preprocessor, fit_preprocess, prepare
from resnets.data.split import FileSplit, Split, TensorSplit
from resnets.data.splits import Splits, open_data

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
