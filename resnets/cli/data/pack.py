"""`resnets data pack`: pack a data set into one file that needs no decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from resnets.cli.options import Flag, refuse_unread
from resnets.utils.printable import echo


@dataclass(frozen=True)
class Pack:
    """Decode all images once into one file, which trains several times faster than the data set.

    Use it like any other data set: `resnets train RECIPE --data NAME.pack`. Unreadable images are
    listed and skipped; the exit code is then 1.

    Args:
        source: Data set: a folder of class folders, a tar of one, ...; with --verify a packed file.
        size: Shorter side in px that larger images are scaled to; 256 to 500 suit models of 224 px.
        out: File to write; default NAME-SIZE.pack in this folder.
        quarantine: List of images to exclude, as written by `resnets data check`.
        ground_truth: Labels of a flat validation folder (ImageNet's ground truth).
        labels_from: Where labels are read from (data.labels_from): auto, folder (each top folder is
            a class) or name (cat.0.jpg is of class cat).
        max_unreadable: Share of unreadable images above which nothing is written.
        workers: Threads, 0 = one per core.
        verify: Compare each image of a packed file with its checksum; writes nothing.
    """

    source: tyro.conf.Positional[str]
    size: int = 400
    out: Path | None = None
    quarantine: str | None = None
    ground_truth: str | None = None
    labels_from: Literal["auto", "folder", "name"] = "auto"
    max_unreadable: float = 0.01
    workers: int = 0
    verify: Flag = False

    def run(self) -> int:
        """Pack, or verify; returns the exit code."""
        if self.verify:
            read = "source verify"
            refuse_unread(type(self), vars(self), read, "--verify only reads the packed file")
            return _verify(Path(self.source))
        options = vars(self) | {"quiet": False}
        del options["verify"]
        return _pack(options.pop("source"), options)


def _pack(source: str, options: dict[str, Any]) -> int:
    from resnets.api.data.pack import pack_data
    from resnets.data.decode.pixel_values import describe_levels

    packed = pack_data(source, **options)
    parts = ", ".join(f"{count:,} {role}" for role, count in packed.images.items())
    echo(f"wrote {packed.path}: {parts}, {_format_bytes(packed.size)}")
    for line in describe_levels(packed.value_range):
        echo(line)
    echo(f"to train on it: resnets train RECIPE --data {packed.path}")
    if packed.unreadable:
        _warn(f"skipped {len(packed.unreadable):,} unreadable images")
    return 1 if packed.unreadable else 0


def _verify(path: Path) -> int:
    from resnets.data.dataset.pack import verify_images
    from resnets.evaluate.prepare import with_progress

    damaged, (images, checked) = 0, verify_images(path)
    for name, is_intact in with_progress(checked, images):
        if not is_intact:
            damaged += 1
            _warn(f"{name}: checksum mismatch")
    if damaged:
        _warn(f"{path}: {damaged:,} of {images:,} images are damaged; pack the data set again")
        return 1
    echo(f"{path}: {images:,} images, all checksums match")
    return 0


def _warn(text: str) -> None:
    echo(f"resnets data pack: {text}", error=True)


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
