"""Classes that mirroring an image may turn into other classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = re.compile(r"left|right", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}


def mirror_warning(classes: Sequence[str]) -> str | None:
    """One line where `classes` look as if mirrored training images were mislabelled, else None.

    That is where all of them are single letters or digits, or where two differ only in left and
    right.
    """
    if len(classes) > 1 and all(len(name) == 1 and name.isalnum() for name in classes):
        why = f"the classes ({classes[0]} to {classes[-1]}) look like letters or digits"
    elif pair := _sides(classes):
        why = f"the classes {pair[0]!r} and {pair[1]!r} are mirror images by name"
    else:
        return None
    return (
        f"{why}, and data.augment.flip mirrors half of the training images; if a mirrored image "
        "does not show the same class, give --set data.augment.flip=false"
    )


def _sides(classes: Sequence[str]) -> tuple[str, str] | None:
    """The first class whose name, with left and right exchanged, is that of another class."""
    names = {name.lower(): name for name in classes}
    for lower, name in names.items():
        other = SIDES.sub(lambda match: OTHER[match[0].lower()], lower)
        if other != lower and other in names:
            return name, names[other]
    return None
