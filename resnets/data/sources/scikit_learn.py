"""Real images that come with scikit-learn: its digits and two photographs.

They are read from the installed files: importing scikit-learn for them takes more than a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from resnets.data.dataset.parts import ArrayPart, Source
from resnets.data.errors import DataError

DIGITS = "digits.csv.gz"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def open_digits() -> Source:
    """The 1,797 handwritten digits, 8x8 upsampled bilinearly to 16x16, grey.

    From Alpaydin and Kaynak's Optical Recognition of Handwritten Digits (UCI), its test part.
    """
    pixels, labels = load_digits()
    small = torch.from_numpy(pixels).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Source("digits", tuple("0123456789"), ArrayPart("", images, labels))


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels (1797, 8, 8), from 0 to 16, and labels, as `sklearn.datasets.load_digits` has them."""
    table = np.loadtxt(_datasets() / "data" / DIGITS, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def load_photographs() -> list[NDArray[np.uint8]]:
    """Two photographs, uint8 (427, 640, 3), as `sklearn.datasets.load_sample_images` has them."""
    folder = _datasets() / "images"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]


def _datasets() -> Path:
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits: scikit-learn is not installed; pip install scikit-learn")
    return Path(found.origin).parent / "datasets"
