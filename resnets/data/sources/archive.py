"""Data sets in tar and zip files: class folders, WebDataset samples, ImageNet's original tars.

ILSVRC2012_img_train.tar is a tar file of one tar file per class, ILSVRC2012_img_val.tar a tar file
of images only. Both are read by offset and never unpacked.
"""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

import numpy as np

from resnets.data.dataset.source import Source, source_from_parts
from resnets.data.errors import DataError
from resnets.data.files.archives import is_zip, list_archive
from resnets.data.files.folder import Listing
from resnets.data.files.tar import (
    TarFiles,
    check_end,
    is_image_name,
    is_sparse,
    list_tar,
    refuse_sparse,
)
from resnets.data.sources import webdataset
from resnets.data.sources.class_folders import read_tree
from resnets.data.sources.flat_folder import open_flat
from resnets.data.tables.multilabel import LabelForm
from resnets.data.tables.unread_labels import may_hold_labels
from resnets.utils.errors import reading

IMAGENET_TRAIN, IMAGENET_VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def open_tar(
    archive: Path,
    source: str,
    *,
    streaming: bool,
    labels_from: str = "auto",
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source | None:
    """Open a tar or zip file of any of these kinds; None if it cannot be streamed."""
    listing = list_archive(
        archive,
        lambda path: _is_tar(path) or webdataset.is_label_member(path) or may_hold_labels(path),
    )
    if not is_zip(archive) and webdataset.is_sharded(listing):
        return webdataset.open_shards([archive], archive.name, streaming=streaming)
    if streaming:
        return None
    if any(map(_is_tar, listing.paths)) and len(listing.paths) == len(listing.others):
        return read_tree(list_inner_images(listing), archive.name, source).source
    tree = read_tree(
        listing, archive.name, source, labels_from=labels_from, group=group, labels=labels
    )
    return tree.source


def open_imagenet(folder: Path, name: str, truth: str | None) -> Source:
    """Open ImageNet's tars: training images, and validation images with the ground truth file."""
    train_tar, val_tar = folder / IMAGENET_TRAIN, folder / IMAGENET_VAL
    images = list_inner_images(list_tar(train_tar, _is_tar))
    train = read_tree(images, name, str(train_tar)).source
    if not val_tar.is_file():
        return train
    val = open_flat(list_tar(val_tar), "val", train.classes, str(val_tar), truth)
    return source_from_parts(name, train.classes, {"train": train.train, "val": val}, str(folder))


def _is_tar(path: str) -> bool:
    return path.endswith(".tar")


def list_inner_images(outer: Listing) -> Listing:
    """List the images of tar files within a tar file, as "n01440764/1.JPEG" below each name."""
    files = outer.files
    if not isinstance(files, TarFiles):
        raise DataError(f"{files.name(0)}: a tar inside a zip is not supported; unpack the zip")
    spans: dict[str, tuple[int, int]] = {}
    tars = [(row, path) for row, path in enumerate(outer.paths) if _is_tar(path)]
    for row, path in tars:
        files.stream.seek(int(files.spans[row, 0]))
        with (
            reading(files.name(row), DataError, "as a tar", "is it whole?"),
            tarfile.open(fileobj=files.stream, mode="r:") as inner,
        ):
            for member in inner:
                name = posixpath.normpath(member.name)
                if member.isreg() and is_image_name(name):
                    refuse_sparse([name] if is_sparse(member) else [], files.name(row))
                    spans[f"{path.removesuffix('.tar')}/{name}"] = (
                        member.offset_data,
                        member.size,
                    )
            check_end(inner, files.stream, int(files.spans[row].sum()))
    paths = sorted(spans)
    with reading(files.archive, DataError, "as a tar", "is it whole?"):  # sizes beyond 64 bits
        where = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
    images = TarFiles(files.archive, files.stream, paths, where)
    return Listing(images, paths, [path.removesuffix(".tar") for _, path in tars])
