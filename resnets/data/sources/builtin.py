"""Data sets by name: scikit-learn's digits, and data sets that torchvision downloads and verifies.

scikit-learn's data is read from its installed files, because importing it takes over a second.
"""

from __future__ import annotations

import http.client
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from resnets.data.dataset.source import ArrayPart, Source
from resnets.data.decode.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.utils.machine import environment

TIMEOUT = 5.0  # seconds to wait for a server's answer


def fetch_fashion_mnist() -> Path:
    """Return the folder of Fashion-MNIST's IDX files in the cache; download it if necessary."""
    from torchvision.datasets import FashionMNIST

    folder = environment.cache_folder() / "FashionMNIST" / "raw"
    if not all((folder / name).is_file() for name, _ in FashionMNIST.resources):
        mirror = FashionMNIST.mirrors[0]
        _download(
            lambda: FashionMNIST(environment.cache_folder(), download=True),
            "Fashion-MNIST",
            mirror,
            folder,
        )
    return folder


def fetch_cifar(name: str) -> Path:
    """Return the folder of CIFAR's Python batches ("cifar10", "cifar100"); may download them."""
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_and_extract_archive

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    folder = environment.cache_folder() / kind.base_folder

    def download() -> None:
        download_and_extract_archive(
            kind.url, str(environment.cache_folder()), filename=kind.filename, md5=kind.tgz_md5
        )

    if not folder.is_dir():
        _download(download, kind.__name__, kind.url, folder)
    return folder


def fetch_voc(name: str) -> Path:
    """Return the folder of VOC 2007 ("voc2007"), 2012 ("voc2012") or both ("voc0712").

    VOC 2007 includes its test set. The folder is in the cache and downloaded if necessary; for both
    years it has one subfolder per year.
    """
    from torchvision.datasets.utils import download_and_extract_archive
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    folder = environment.cache_folder() / "VOCdevkit"
    parts = {"2007": "trainval", "2007-test": "test", "2012": "trainval"}
    years = {"voc2007": ("2007", "2007-test"), "voc2012": ("2012",), "voc0712": tuple(parts)}[name]
    for year in years:
        entry = DATASET_YEAR_DICT[year]
        place = folder / f"VOC{year[:4]}"
        if (place / "ImageSets" / "Main" / f"{parts[year]}.txt").is_file():
            continue

        def download(entry: dict[str, str] = entry) -> None:
            download_and_extract_archive(
                entry["url"],
                str(environment.cache_folder()),
                filename=entry["filename"],
                md5=entry["md5"],
            )

        _download(download, f"VOC {year}", entry["url"], place)
    return folder if name == "voc0712" else folder / f"VOC{years[0]}"


def find_connection_error(url: str) -> str | None:
    """Return why no server answers at `url`, also through proxies; None if one answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error))


def _download(work: Callable[[], object], title: str, url: str, folder: Path) -> None:
    try:
        work()
    except (OSError, RuntimeError) as error:  # no network, no disk, wrong checksum
        reason = " ".join(str(error).split())
        raise DataError(
            f"{title}: cannot be downloaded from {url} ({reason});"
            f" fetch it elsewhere and put its files into {folder}, or name its folder or archive as"
            " --data"
        ) from error


DIGITS = "digits.csv.gz"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def open_digits() -> Source:
    """Open the 1,797 handwritten digits, gray, 8x8 px bilinearly resized to 16x16.

    They are the test part of the Optical Recognition of Handwritten Digits by Alpaydin and Kaynak
    (UCI).
    """
    pixels, labels = load_digits()
    small = torch.from_numpy(pixels).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Source("digits", tuple("0123456789"), ArrayPart("", images, labels))


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return pixels (1797, 8, 8) from 0 to 16, and labels, as `sklearn.datasets.load_digits`."""
    table = np.loadtxt(_sklearn_folder() / "data" / DIGITS, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def load_photographs() -> list[NDArray[np.uint8]]:
    """Return two photographs, uint8 (427, 640, 3), as `sklearn.datasets.load_sample_images`."""
    folder = _sklearn_folder() / "images"
    return [decode_whole(read_file(folder / name), name) for name in PHOTOGRAPHS]


def _sklearn_folder() -> Path:
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits: scikit-learn is not installed; pip install scikit-learn")
    return Path(found.origin).parent / "datasets"
