"""Data sets: from a stored folder, file or name to batches on the device.

From a folder to a batch, top down:

1. `splits.open.open_data(spec)` opens a set. `sources.open.find_source` tries each format in turn
   (`sources/`: class folders, tables, tars, WebDataset, Parquet, IDX, CIFAR, the Hub) and returns a
   `dataset.source.Source`: classes, and up to three `Part`s of encoded images (`files/`) with
   labels. `layout/` interprets folders, `tables/` reads labels from files.
2. `splits.roles` assigns each image to training, validation or test by its identity
   (`dataset.image_identity`), and `Part.open` makes a `dataset.labeled_images.Split` of each: a
   `TensorSplit` in memory or a `FileSplit` that is decoded when needed (`dataset.in_memory`).
   `dataset.probe_split` opens a sample; what was understood, excluded or may be wrong is in one
   `dataset.summary.DataSummary`, which every command prints and every report has.
3. `loading.batches.TrainStream.batches()` takes rows from `order` (a pure function of seed and
   epoch), reads and decodes them ahead by threads (`dataset.read_ahead.read_ahead`, `prefetch`,
   `Split.read`, `decode.decode`), augments them on the device (`transforms.augment`, `mix`) and
   yields a `Batch`. `eval_batches` does the same with the center view of `Preprocessor` and without
   randomness.

There is one of each: `prefetch` reads ahead, `files.walk` lists folders and decides what is an
image and which links are followed, `tables.reader` reads path,label files, `splits.roles` splits,
and every command (training, evaluation, features, checks, detection) opens sets through
`find_source` or the same `files`; bulk prediction indexes them in constant memory with the same
walker and readers.
"""

from resnets.data.batch import Batch
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.errors import DataError
from resnets.data.loading.batches import TrainStream, eval_batches
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
