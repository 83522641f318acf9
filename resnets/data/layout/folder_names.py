"""Names of folders and files in data sets: splits, images, masks, and meaningless names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Role = Literal["train", "val", "test", "trainval"]

_ROLE_NAMES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "testdev"), "test"),
    **dict.fromkeys(("trainval", "trainvalid"), "trainval"),
}
FOLDER_ROLES: dict[str, Role] = {  # only for names of folders
    **dict.fromkeys(("evaluation", "eval", "holdout", "heldout"), "test"),
}
NOISE = frozenset(
    (
        "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos",
        "picture", "pictures", "split", "splits", "folder", "seg", "raw", "sample", "samples",
        "small", "full", "resized", "cropped", "crops", "new", "jpg", "jpeg", "png",
    )
)  # fmt: skip
UNLABELED = frozenset(("pred", "predict", "prediction", "unlabeled", "unlabelled", "submission"))
GENERIC = NOISE | UNLABELED | {"all", "unknown", "files", "content"}
IMAGE_FOLDERS = frozenset(
    (
        "image", "images", "img", "imgs", "rgb", "photo", "photos", "color", "colour",
        "jpegimages",
        "input", "inputs", "original", "originals", "picture", "pictures", "leftimg8bit",
    )
)  # fmt: skip
MASK_FOLDERS = frozenset(
    (
        "mask", "masks", "depth", "depths", "label", "labels", "annotation", "annotations", "gt",
        "groundtruth", "segmentation", "segmentations", "seg", "segs", "trimap", "trimaps",
        "segmentationclass", "segmentationobject", "target", "targets", "gtfine", "disparity",
        "output", "outputs", "edges", "contours", "matte", "mattes", "alpha", "normals",
    )
)  # fmt: skip
NNUNET = re.compile(r"(images|labels)(tr|ts)")
FOLD = re.compile(r"(?:k?[-_ ]?folds?|cv|partition)[-_ ]*\d+", re.IGNORECASE)
NOT_CLASS_NAMES = IMAGE_FOLDERS | MASK_FOLDERS | GENERIC  # names of folders below a class


def split_role(name: str) -> Role | None:
    """Return the split that the name of a folder or list denotes, or None.

    Case, a year or number at the end, and the words "set", "data", "images" and "split" are
    ignored.

    >>> [split_role(name) for name in ("Train2017", "test_set", "validation", "trainer")]
    ['train', 'test', 'val', None]
    """
    words = [word for word in _split_words(name) if word not in ("set", "data", "images", "split")]
    return _ROLE_NAMES.get("".join(words))


def role_within(name: str) -> Role | None:
    """Return the split of a longer file name: the only one among its words, or None.

    >>> [role_within(name) for name in ("lvis_v1_val", "cells-Train", "train_or_test")]
    ['val', 'train', None]
    """
    if (whole := split_role(name)) is not None:
        return whole
    found = {_ROLE_NAMES[word] for word in _split_words(name) if word in _ROLE_NAMES}
    return found.pop() if len(found) == 1 else None


def _split_words(name: str) -> list[str]:
    """Return the lower-case runs of letters."""
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", name).lower())


def folder_role(name: str) -> Role | None:
    """Return the split that a folder name denotes, or None."""
    words = [word for word in name_words(name) if word not in NOISE]
    if any(word in UNLABELED for word in words):
        return "test" if len(words) == 1 else None
    return split_role("".join(words)) or split_role(name) or FOLDER_ROLES.get("".join(words))


def find_folder_roles(names: Sequence[str]) -> dict[str, Role]:
    """Return the sibling folders that are splits.

    Of asl_train and asl_test the differing word counts.
    """
    found = {name: role for name in names if (role := folder_role(name)) is not None}
    if found or len(names) < 2:
        return found
    within = {name: role_within(name) for name in names}
    rests = {_remove_role_words(name) for name in names}
    if len(rests) == 1 and len({role for role in within.values() if role}) == len(names):
        return {name: role for name, role in within.items() if role is not None}
    return {}


def find_split_folders(names: Sequence[str]) -> list[str]:
    """Return sibling folders whose names differ only in the split: bounding_box_train and _test."""
    by_rest: dict[str, dict[str, str]] = {}
    for name in names:
        if (role := role_within(name)) is not None:
            by_rest.setdefault(_remove_role_words(name), {})[role] = name
    return next(
        (list(found.values()) for key, found in by_rest.items() if key and len(found) > 1), []
    )


def _remove_role_words(name: str) -> str:
    return " ".join(word for word in name_words(name) if split_role(word) is None)


def is_mask_folder(name: str) -> bool:
    """Return whether the name of a folder is that of masks, maps or outlines."""
    return "".join(name_words(name)) in MASK_FOLDERS


def find_images_and_masks(names: Sequence[str]) -> tuple[str, str] | None:
    """Return sibling folders of images and of their masks, by name; None if there are none.

    The last word may tell them apart, if all words before it are equal, as in Training_Input and
    Training_GroundTruth; nnU-Net's imagesTr and labelsTr are also recognized.
    """
    found: dict[str, dict[tuple[str, ...], str]] = {"image": {}, "mask": {}}
    for name in names:
        words = name_words(name)
        if match := NNUNET.fullmatch("".join(words)):
            words = [match[1]]
        *rest, last = words or [""]
        whole = "".join(words)
        for kind, known in (("image", IMAGE_FOLDERS), ("mask", MASK_FOLDERS)):
            if whole in known:
                found[kind].setdefault((), name)
            elif last in known:
                found[kind].setdefault(tuple(rest), name)
    both = [rest for rest in found["image"] if rest in found["mask"]]
    return (found["image"][both[0]], found["mask"][both[0]]) if both else None


def may_be_class(name: str) -> bool:
    """Return whether a folder may be a class: its name is not that of images, masks or a split."""
    return "".join(name_words(name)) not in NOT_CLASS_NAMES and folder_role(name) is None


def name_words(name: str) -> list[str]:
    """Return the words of a folder's name in lower case, without digits."""
    return re.findall(r"[^\W\d_]+", name.lower())
