"""What folders and files of data sets are called: one table of names for all readers.

Splits, images, masks, and names that say nothing, without regard to case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Role = Literal["train", "val", "test", "trainval"]

_NAMES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "testdev"), "test"),
    **dict.fromkeys(("trainval", "trainvalid"), "trainval"),
}
MORE_ROLES: dict[str, Role] = {  # as folders alone are called
    **dict.fromkeys(("evaluation", "eval", "holdout", "heldout"), "test"),
}
NOISE = frozenset(
    (
        *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos"),
        *("picture", "pictures", "split", "splits", "folder", "seg", "raw", "sample", "samples"),
        *("small", "full", "resized", "cropped", "crops", "new", "jpg", "jpeg", "png"),
    )
)
UNLABELED = frozenset(("pred", "predict", "prediction", "unlabeled", "unlabelled", "submission"))
GENERIC = NOISE | UNLABELED | {"all", "unknown", "files", "content"}
IMAGE_FOLDERS = frozenset(
    (
        *(
            "image",
            "images",
            "img",
            "imgs",
            "rgb",
            "photo",
            "photos",
            "color",
            "colour",
            "jpegimages",
        ),
        *("input", "inputs", "original", "originals", "picture", "pictures", "leftimg8bit"),
    )
)
MASK_FOLDERS = frozenset(
    (
        *("mask", "masks", "depth", "depths", "label", "labels", "annotation", "annotations", "gt"),
        *("groundtruth", "segmentation", "segmentations", "seg", "segs", "trimap", "trimaps"),
        *("segmentationclass", "segmentationobject", "target", "targets", "gtfine", "disparity"),
        *("output", "outputs", "edges", "contours", "matte", "mattes", "alpha", "normals"),
    )
)
NNUNET = re.compile(r"(images|labels)(tr|ts)")
FOLD = re.compile(r"(?:k?[-_ ]?folds?|cv|partition)[-_ ]*\d+", re.IGNORECASE)
NO_CLASSES = IMAGE_FOLDERS | MASK_FOLDERS | GENERIC  # what folders below a class may be called


def split_role(name: str) -> Role | None:
    """The split that a folder or list called `name` is, None where it is called otherwise.

    Case, a year or number at the end, and "set", "data", "images" or "split" beside it do not
    count.

    >>> [split_role(name) for name in ("Train2017", "test_set", "validation", "trainer")]
    ['train', 'test', 'val', None]
    """
    words = [word for word in _words(name) if word not in ("set", "data", "images", "split")]
    return _NAMES.get("".join(words))


def role_within(name: str) -> Role | None:
    """The same for a file name that says more: the one split among its words.

    >>> [role_within(name) for name in ("lvis_v1_val", "cells-Train", "train_or_test")]
    ['val', 'train', None]
    """
    if (whole := split_role(name)) is not None:
        return whole
    found = {_NAMES[word] for word in _words(name) if word in _NAMES}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> list[str]:
    """Lower-case runs of letters."""
    return re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", name).lower())


def folder_role(name: str) -> Role | None:
    """The split that a folder's name says."""
    words = [word for word in name_words(name) if word not in NOISE]
    if any(word in UNLABELED for word in words):
        return "test" if len(words) == 1 else None
    return split_role("".join(words)) or split_role(name) or MORE_ROLES.get("".join(words))


def folder_roles(names: Sequence[str]) -> dict[str, Role]:
    """Those of sibling folders that are splits: asl_train and asl_test by what they differ in."""
    found = {name: role for name in names if (role := folder_role(name)) is not None}
    if found or len(names) < 2:
        return found
    within = {name: role_within(name) for name in names}
    rests = {_without_role(name) for name in names}
    if len(rests) == 1 and len({role for role in within.values() if role}) == len(names):
        return {name: role for name, role in within.items() if role is not None}
    return {}


def splits_among(names: Sequence[str]) -> list[str]:
    """Those of sibling folders that differ in a split only: bounding_box_train and _test."""
    alike: dict[str, dict[str, str]] = {}
    for name in names:
        if (role := role_within(name)) is not None:
            alike.setdefault(_without_role(name), {})[role] = name
    return next(
        (list(found.values()) for rest, found in alike.items() if rest and len(found) > 1), []
    )


def _without_role(name: str) -> str:
    return " ".join(word for word in name_words(name) if split_role(word) is None)


def is_mask_folder(name: str) -> bool:
    """Whether a folder is called like one of masks, maps or outlines."""
    return "".join(name_words(name)) in MASK_FOLDERS


def images_and_masks(names: Sequence[str]) -> tuple[str, str] | None:
    """Of sibling folders, one of images and one of masks of them, by their names; else None.

    A name may end in the word that tells, if the words before it are those of the other one, as in
    Training_Input and Training_GroundTruth; nnU-Net's imagesTr and labelsTr count, too.
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
    """Whether a folder may be a class: not one called like images, masks or a split."""
    return "".join(name_words(name)) not in NO_CLASSES and folder_role(name) is None


def name_words(name: str) -> list[str]:
    """The words of a folder's name in lower case, without digits."""
    return re.findall(r"[^\W\d_]+", name.lower())
