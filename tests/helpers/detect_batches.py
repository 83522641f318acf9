"""Training batches of an annotated set, and their comparison."""

import torch

from resnets.config import DataSpec, DetectSpec, Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.loading.sources import open_detection
from resnets.detect.loading.train_batches import DetectStream

PLAIN = Preprocessor(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def stream(root, task="instances", batch_size=2, seed=0, workers=2, **fields):
    data = DataSpec(
        source=str(root), val_fraction=0, test_fraction=0, workers=workers, max_unreadable=0.3
    )
    detect = DetectSpec(**{"train_sizes": (60, 90), "max_size": 200, "crop": 64, **fields})
    split = open_detection(data, detect, task).train
    device = torch.device("cpu")
    return DetectStream(split, data, detect, PLAIN, batch_size, seed, device, task)


def assert_equal(one, other):
    assert one.ids.tolist() == other.ids.tolist()
    for a, b in zip(one.images, other.images, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(one.targets, other.targets, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
