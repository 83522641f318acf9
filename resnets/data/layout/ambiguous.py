"""Where class folders may be something else: patients or sites, a camera's folders, dates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from resnets.data.layout.class_spelling import class_key
from resnets.data.layout.folder_names import FOLD, images_and_masks, may_be_class, splits_among

SHARED = 0.3  # share of the top folders that hold a folder of one name, from which it is shared
COVERED = 0.6  # share of the images that lie in shared folders, from which those are the classes
YEAR = re.compile(r"(?=.*\d{4}|\D*\d{1,2}\D+\d{1,2}\D*$)[\d\W_]+")  # 2019, 2019-05, 24.12.
NUMBERS = re.compile(r"[\d\W_]*")

# Names that programs give to folders of photographs.
CAMERA = re.compile(
    r"[1-9]\d\d(?=\d*[A-Z_])[A-Z0-9_]{5}"  # DCF: 100APPLE, 101_PANA
    r"|(?i:dcim|camera roll|camera uploads|whatsapp images|new folder(?: \(?\d+\)?)?"
    r"|untitled folder(?: \d+)?|(?:photos|fotos) (?:from|von|de|del) \d{4})"
)
COPY = re.compile(
    r"(.+?)(?:\s-\s(?:copy|kopie|copie|copia)(?:\s\(\d+\))?|\s(?:copy|kopie)(?:\s\d+)?|\s\(\d+\)"
    r"|[-_ .](?:backup|bak))",
    re.IGNORECASE,
)
DATE = re.compile(r"(?:19|20)\d\d([-_. ]?)(?:0\d|1[0-2])(?:\1(?:[0-2]\d|3[01]))?|(?:19|20)\d\d")


def why_no_classes(own: Mapping[str, int], below: Mapping[str, Mapping[str, int]]) -> str:
    """Why folders are probably no classes, and what to do; "" where they may be.

    own, below: images in each folder itself, and in each folder in it.
    """
    names = list(own)
    folds = list(filter(FOLD.fullmatch, names))
    if len(folds) > 1 and all(below[name] for name in folds):
        return (
            f"{folders_listed(folds)} are called like folds of a cross-validation; put those to"
            " train on into train/ and the others into test/"
        )
    if split := splits_among(names):
        others = [name for name in names if name not in split]
        return (
            f"{folders_listed(split)} are called like splits, and lie beside"
            f" {folders_listed(others)}; call them train and test, with a folder for each class"
        )
    if pair := images_and_masks(names):
        return (
            f"{pair[1]}/ beside {pair[0]}/ looks like masks, not like a class; give {pair[0]} class"
            " folders or a file of labels, train a segmenter"
        )
    if filed_by_letter(own, below):
        return f"{folders_listed(names)} file class folders by letter; put those in one folder"
    if shared := repeated_folders(own, below):
        return (
            f"{folders_listed(names)} hold folders of the same names, {folders_listed(shared)},"
            " which look like the classes; call the folders above them train, val and test, or put"
            " the images of each class together"
        )
    return ""


def repeated_folders(
    own: Mapping[str, int],
    below: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """Names of folders that recur below the top folders and hold nearly all images: [] for none.

    These look like the classes, and the top folders like patients, sites or folds; a few of them
    may lack one. own, below: images in each top folder, and in each folder in it. Names of numbers
    are none where these are years or the top folders are not numbered too.
    """
    if len(own) < 2:
        return []
    numbered = all(re.search(r"\d", name) for name in own)

    def may_be(name: str) -> bool:
        if NUMBERS.fullmatch(name):
            return numbered and not YEAR.fullmatch(name)
        return may_be_class(name)

    held: Counter[str] = Counter()
    for folders in below.values():
        held.update({class_key(name) for name in folders if may_be(name)})
    least = max(2.0, SHARED * len(own))
    shared = {name for name, count in held.items() if count >= least}
    inside = sum(
        count
        for folders in below.values()
        for name, count in folders.items()
        if class_key(name) in shared
    )
    total = sum(own.values()) + sum(sum(folders.values()) for folders in below.values())
    if len(shared) < 2 or inside < COVERED * total:
        return []
    return sorted(shared)


def odd_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Warnings for class names that a camera, a calendar or a file manager gave."""
    found = []
    camera = [name for name in classes if CAMERA.fullmatch(name)]
    dates = [name for name in classes if DATE.fullmatch(name)]
    if camera:
        found.append(
            f"folders that are taken as classes are called as cameras and programs call theirs:"
            f" {listed(camera)}; are these classes?"
        )
    if len(dates) > 1 and len(dates) == len(classes):
        found.append(f"all classes are called like dates: {listed(dates)}; are these classes?")
    known = {class_key(name) for name in classes}
    for name in classes:
        copied = COPY.fullmatch(name)
        if copied is not None and class_key(copied[1]) in known:
            found.append(
                f"the class folder {name!r} is called like a copy of {copied[1]!r}, and is taken as"
                " a class of its own"
            )
    return tuple(found)


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))


def folders_listed(names: Sequence[str]) -> str:
    """The first names of folders, and how many more there are."""
    return listed([f"{name}/" for name in names])


def filed_by_letter(own: Mapping[str, int], below: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether class folders are filed under their first letter, as in SUN397 (a/abbey).

    own: images of each top folder itself. below: those of each folder in it.
    """
    return len(own) > 1 and all(
        len(name) == 1
        and name.isalpha()
        and not count
        and all(each.lower().startswith(name.lower()) for each in below[name])
        for name, count in own.items()
    )
