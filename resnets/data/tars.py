"""Tars: of class folders, of WebDataset samples, and ImageNet's as they are downloaded.

ILSVRC2012_img_train.tar is a tar of a tar for each class, ILSVRC2012_img_val.tar of flat pictures;
both are read by offset, never unpacked.
"""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

import numpy as np

from resnets.data import shards
from resnets.data.errors import DataError
from resnets.data.files import Listing, TarFiles, check_end, is_picture, list_tar
from resnets.data.ground_truth import flat_part
from resnets.data.parts import Source, by_role
from resnets.data.tree import open_tree

IMAGENET_TRAIN, IMAGENET_VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def open_tar(archive: Path, source: str, *, streaming: bool) -> Source | None:
    """The set in a tar, whichever of the three it is; None for one that cannot be streamed."""
    listing = list_tar(archive, lambda path: path.endswith(".tar") or shards.wanted(path))
    if shards.is_sharded(listing):
        return shards.open_shards([archive], archive.name, streaming=streaming)
    if streaming:
        return None
    if listing.paths and all(path.endswith(".tar") for path in listing.paths):
        return open_tree(inside(listing), archive.name, source)
    return open_tree(_pictures(listing), archive.name, source)


def open_imagenet(folder: Path, name: str, truth: str | None) -> Source:
    """ImageNet in the tars it comes in: training, and validation with its ground truth beside."""
    whole, flat = folder / IMAGENET_TRAIN, folder / IMAGENET_VAL
    train = open_tree(inside(list_tar(whole, _is_tar)), name, str(whole))
    if not flat.is_file():
        return train
    val = flat_part(list_tar(flat), "val", "", train.classes, str(flat), truth)
    return by_role(name, train.classes, {"train": train.train, "val": val}, str(folder))


def _is_tar(path: str) -> bool:
    return path.endswith(".tar")


def _pictures(listing: Listing) -> Listing:
    """The pictures of a listing that has other files too."""
    rows = [row for row, path in enumerate(listing.paths) if is_picture(path)]
    paths = [listing.paths[row] for row in rows]
    return Listing(listing.files.take(np.array(rows, np.int64)), paths, listing.folders)


def inside(outer: Listing) -> Listing:
    """The pictures of the tars in a tar, each below the name of its own: "n01440764/1.JPEG"."""
    files = outer.files
    assert isinstance(files, TarFiles)
    spans: dict[str, tuple[int, int]] = {}
    for row, path in enumerate(outer.paths):
        files.stream.seek(int(files.spans[row, 0]))
        try:
            with tarfile.open(fileobj=files.stream, mode="r:") as inner:
                for member in inner:
                    name = posixpath.normpath(member.name)
                    if member.isreg() and is_picture(name):
                        spans[f"{path.removesuffix('.tar')}/{name}"] = (
                            member.offset_data,
                            member.size,
                        )
                check_end(inner, files.stream)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{files.name(row)}: cannot be read as a tar ({error})") from error
    paths = sorted(spans)
    where = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
    pictures = TarFiles(files.archive, files.stream, paths, where)
    return Listing(pictures, paths, [path.removesuffix(".tar") for path in outer.paths])
