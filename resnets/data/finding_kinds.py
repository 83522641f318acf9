"""The kinds of findings of `resnets data check`, and a finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from resnets.config import ConfigError
from resnets.utils.suggest import suggest


@dataclass(frozen=True)
class FindingKind:
    """A kind of finding: its `name` in lists, what it means, and what training does with it.

    weight: "leak" makes a measured error wrong, "broken" is unusable, "suspect" should be looked
    at, "note" is information.
    """

    name: str
    title: str
    meaning: str
    weight: Literal["leak", "broken", "suspect", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding: `path` within the source, its part and class if any.

    other_image: path of the image that it repeats, in part `other_part`. count: number of files
    that it stands for, `path` being the first.
    """

    kind: FindingKind
    path: str
    detail: str
    part: str = ""
    label: str = ""
    other_image: str = ""
    other_part: str = ""
    count: int = 1


UNREADABLE = FindingKind(
    "unreadable", "Unreadable",
    "Cannot be read or decoded. Training reads other images in their place; evaluation leaves"
    " them out.",
    "broken",
)  # fmt: skip
TRUNCATED = FindingKind(
    "truncated", "Truncated",
    "The file ends before the image does, as after a broken download. Treated as unreadable.",
    "broken",
)  # fmt: skip
BOMB = FindingKind(
    "bomb", "Too large",
    "More pixels than are decoded, to protect the memory. Treated as unreadable.",
    "broken",
)  # fmt: skip
LAYOUT = FindingKind(
    "layout", "Layout",
    "Why training refuses the set.",
    "suspect",
)  # fmt: skip
EMPTY_CLASS = FindingKind(
    "empty-class", "Empty classes",
    "Class folders without an image. Add some, or remove the folder.",
    "suspect",
)  # fmt: skip
LEAK = FindingKind(
    "leak", "The same image in two splits",
    "Same bytes or pixels as an image of a held-out split (test before validation before"
    " training), so an error measured there includes images seen in training.",
    "leak",
)  # fmt: skip
NEAR_LEAK = FindingKind(
    "near-leak", "Near-copies in two splits",
    "Looks like an image of a held-out split: the same photograph saved or resized again,"
    " or another frame of one scene. data.group keeps images that belong together on one side.",
    "leak",
)  # fmt: skip
SAME_SOURCE = FindingKind(
    "same-source", "Copies of one source in two splits",
    "By its name (NAME.rf.HASH of Roboflow, NAME-300x225 of WordPress) a version of the photograph"
    " of which another split has a version, perhaps flipped or cropped.",
    "suspect",
)  # fmt: skip
DUPLICATE = FindingKind(
    "duplicate", "Duplicates",
    "Same bytes or pixels as another image of the same split.",
    "suspect",
)  # fmt: skip
NEAR_DUPLICATE = FindingKind(
    "near-duplicate", "Near-copies",
    "Looks like another image of the same split: the same photograph saved or scaled again.",
    "suspect",
)  # fmt: skip
TINY = FindingKind(
    "tiny", "Tiny",
    "Hardly any pixels: a placeholder or thumbnail?",
    "suspect",
)  # fmt: skip
WRONG_SUFFIX = FindingKind(
    "wrong-suffix", "Extension of another format",
    "Read by their content, not by their name.",
    "note",
)  # fmt: skip
ROTATED = FindingKind(
    "rotated", "Rotated by EXIF",
    "Rotated upright when read.",
    "note",
)  # fmt: skip
CMYK = FindingKind("cmyk", "CMYK", "Made for print; read as RGB, colors may shift.", "note")
DEEP = FindingKind("16-bit", "16 bits", "Scaled to 8 bits when read.", "note")
PALETTE = FindingKind("palette", "Palette", "Read as RGB.", "note")
ANIMATED = FindingKind("animated", "Several frames", "The first frame is read.", "note")
NOT_AN_IMAGE = FindingKind(
    "not-an-image", "Not images",
    "Files that are not images; training does not use them.",
    "note",
)  # fmt: skip
UNREAD = FindingKind(
    "unread-format", "Image formats that are not read",
    "Images in formats that cannot be read here; training does not use them.",
    "suspect",
)  # fmt: skip
NO_CLASS_FOLDER = FindingKind(
    "stray", "Outside of the classes",
    "Images that are in no class folder; training does not use them.",
    "note",
)  # fmt: skip
UNLISTED = FindingKind(
    "unlisted", "In no image set",
    "Images that the annotations do not mention. Training does not use them, and they were not"
    " read.",
    "note",
)  # fmt: skip
MASK = FindingKind(
    "mask", "Masks next to images",
    "Masks, maps or copies next to the image they belong to; training does not use them.",
    "note",
)  # fmt: skip
UNLABELED = FindingKind(
    "unlabelled", "Without a label",
    "Images of a test folder without class folders or labels; training does not use them.",
    "note",
)  # fmt: skip
ODD_FOLDER = FindingKind(
    "odd-folder", "Folders named like images",
    "Read as folders.",
    "note",
)  # fmt: skip

IMBALANCE = FindingKind(
    "imbalance", "Uneven classes",
    "The largest class has many times the training images of the smallest. The overall error then"
    " says little about small classes: look at the errors by class.",
    "suspect",
)  # fmt: skip
UNMEASURED = FindingKind(
    "unmeasured-class", "Classes that are not measured",
    "Classes of the training part without an image in the part that errors are measured on.",
    "suspect",
)  # fmt: skip

KINDS = (
    LEAK, NEAR_LEAK, LAYOUT, UNREADABLE, TRUNCATED, BOMB, EMPTY_CLASS, UNMEASURED, IMBALANCE,
    SAME_SOURCE, UNREAD, DUPLICATE, NEAR_DUPLICATE, TINY, WRONG_SUFFIX, ROTATED, CMYK, DEEP,
    PALETTE, ANIMATED, NOT_AN_IMAGE, NO_CLASS_FOLDER, MASK, UNLABELED, UNLISTED, ODD_FOLDER,
)  # fmt: skip
LEAKS = frozenset({LEAK, NEAR_LEAK})
OLD_NAMES = {"no-picture": "not-an-image"}


def kinds_by_name(names: Iterable[str]) -> frozenset[FindingKind]:
    """Return kinds by their current or earlier names; raise ConfigError for an unknown name."""
    known = {kind.name: kind for kind in KINDS}
    chosen = [OLD_NAMES.get(name, name) for name in names]
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--exclude {name}: no such finding; {suggest(name, known)}")
    return frozenset(known[name] for name in chosen)
