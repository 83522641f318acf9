"""Names of the splits of a data set, as people spell them: one table for all readers."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Role = Literal["train", "val", "test", "trainval"]

_NAMES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "testdev"), "test"),
    **dict.fromkeys(("trainval", "trainvalid"), "trainval"),
}


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
