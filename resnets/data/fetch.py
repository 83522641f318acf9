"""Known sets by name: found on this machine, or downloaded and checked by torchvision."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from resnets.data.errors import DataError

PATIENCE = 5.0  # seconds for a server to answer at all


def cache_folder() -> Path:
    """Where downloads go: $RESNETS_CACHE, else ~/.cache/resnets."""
    return Path(os.environ.get("RESNETS_CACHE") or "~/.cache/resnets").expanduser()


def fetch_fashion_mnist() -> Path:
    """Folder of Fashion-MNIST's IDX files in the cache, downloaded if need be."""
    from torchvision.datasets import FashionMNIST

    folder = cache_folder() / "FashionMNIST" / "raw"
    if not all((folder / name).is_file() for name, _ in FashionMNIST.resources):
        mirror = FashionMNIST.mirrors[0]
        _download(
            lambda: FashionMNIST(cache_folder(), download=True), "Fashion-MNIST", mirror, folder
        )
    return folder


def fetch_cifar(name: str) -> Path:
    """Folder of CIFAR's Python batches ("cifar10" or "cifar100"), downloaded if need be."""
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_and_extract_archive

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    folder = cache_folder() / kind.base_folder

    def download() -> None:
        download_and_extract_archive(
            kind.url, str(cache_folder()), filename=kind.filename, md5=kind.tgz_md5
        )

    if not folder.is_dir():
        _download(download, kind.__name__, kind.url, folder)
    return folder


def why_away(url: str) -> str | None:
    """None where a server answers at `url`, through proxies too; else what went wrong."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
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
            f" fetch it elsewhere and put its files into {folder}"
        ) from error
