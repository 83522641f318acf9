"""`resnets.pack_data`: pack a data set into one file of decoded pixels."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.pack import SUFFIX, verify_images
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.summary import announce, summarize_source
from resnets.data.loading.pack_write import PackReport, pack
from resnets.data.sources.open import find_source
from resnets.utils.api_function import api_function
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.locks import lock_path

ARCHIVES = (".gz", ".xz", ".bz2", ".tar", ".tgz")  # suffixes that the packed file's name drops


@api_function
def pack_data(
    data: str | PathLike[str],
    size: int = 400,
    *,
    out: str | PathLike[str] | None = None,
    quarantine: str | PathLike[str] | None = None,
    ground_truth: str | PathLike[str] | None = None,
    labels_from: Literal["auto", "folder", "name"] = "auto",
    max_unreadable: float = 0.01,
    workers: int = 0,
    quiet: bool = True,
) -> PackReport:
    """Decode all images once into one file, from which training is several times faster.

        packed = resnets.pack_data("photos", 256)
        packed.images, packed.unreadable  # ({"train": 900, "val": 100}, [])
        resnets.train("scratch", data=packed.path)

    Args:
        data: Path of the data set: a folder of class folders, a tar file of one, ....
        size: Length in px to which a longer shorter side is resized; 256 to 500 suit 224 px models.
        out: File to write; default NAME-SIZE.pack in the current folder.
        quarantine: List of images to exclude, as written by `resnets.check_data`.
        ground_truth: File with the labels of a flat validation folder (as ImageNet's ground truth).
        labels_from: Source of the labels (`data.labels_from`): "auto", "folder" or "name".
        max_unreadable: Fraction of unreadable images above which no file is written.
        workers: Number of threads; 0 = one per core.
        quiet: Do not print how the data set was interpreted.

    Unreadable images are logged and skipped. Raises DataError, and ConfigError if the file exists
    or the data set cannot be packed.
    """
    spec = DataSpec(
        source=fspath(data),
        quarantine=None if quarantine is None else fspath(quarantine),
        ground_truth=None if ground_truth is None else fspath(ground_truth),
        labels_from=labels_from,
        max_unreadable=max_unreadable,
        workers=workers,
    )
    path = _default_path(spec.source, size) if out is None else output_path(out)
    if path.suffix != SUFFIX:
        raise ConfigError(
            f"--out {path}: packed data sets end in {SUFFIX}; use {path.name}{SUFFIX}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: no such folder {path.parent}")
    with lock_path(path):
        if path.exists():
            raise ConfigError(f"--out {path}: already exists; remove it or give another file")
        source = find_source(spec)
        if not quiet:
            announce(summarize_source(source))
        return pack(
            source,
            path,
            size,
            quarantine=Quarantine.of(spec),
            workers=workers,
            max_unreadable=max_unreadable,
        )


@api_function
def verify_pack(path: str | PathLike[str]) -> list[str]:
    """Return the names of the images of a packed data set whose checksum (CRC-32) differs.

    Raises DataError if the file is not a packed data set, cut short, or its index is damaged.
    """
    _, checked = verify_images(Path(path).expanduser())
    return [name for name, is_intact in checked if not is_intact]


def _default_path(source: str, size: int) -> Path:
    name = Path(source).resolve().name
    for ending in ARCHIVES:
        name = name.removesuffix(ending)
    return Path(f"{name}-{size}{SUFFIX}")
