"""Detect folders that are probably not classes: patients or sites, folders of a camera, dates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from resnets.data.layout.class_spelling import class_key
from resnets.data.layout.folder_names import (
    FOLD,
    find_images_and_masks,
    find_split_folders,
    may_be_class,
)
from resnets.utils.printable import join_names

MIN_SHARED = 0.3  # share of the top folders from which a folder name in them is shared
MIN_COVERED = 0.6  # share of the images in shared folders from which those are the classes
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


def explain_not_classes(
    num_images: Mapping[str, int], num_below: Mapping[str, Mapping[str, int]]
) -> str:
    """Return why folders are probably not classes and what to do; "" if they may be classes.

    num_images, num_below: the number of images in each folder itself, and in each folder in it.
    """
    names = list(num_images)
    folds = list(filter(FOLD.fullmatch, names))
    if len(folds) > 1 and all(num_below[name] for name in folds):
        return (
            f"{format_folders(folds)} are named like folds of a cross-validation; put those to"
            " train on into train/ and the others into test/"
        )
    if split := find_split_folders(names):
        others = [name for name in names if name not in split]
        return (
            f"{format_folders(split)} are named like splits, next to"
            f" {format_folders(others)}; call them train and test, with a folder for each class"
        )
    if pair := find_images_and_masks(names):
        return (
            f"{pair[1]}/ next to {pair[0]}/ looks like masks, not like a class; give {pair[0]}"
            " class folders or a file of labels, train a segmenter"
        )
    if is_filed_by_letter(num_images, num_below):
        return f"{format_folders(names)} file class folders by letter; put those in one folder"
    if shared := find_repeated_folders(num_images, num_below):
        return (
            f"{format_folders(names)} contain folders of the same names, {format_folders(shared)},"
            " which look like the classes; call the folders above them train, val and test, or put"
            " the images of each class together"
        )
    return ""


def find_repeated_folders(
    num_images: Mapping[str, int],
    num_below: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """Return names of folders that recur below the top folders and have nearly all images, or [].

    These are probably the classes, and the top folders patients, sites or folds; some may lack a
    class. num_images, num_below: the number of images in each top folder, and in each folder in it.
    Numeric names are ignored if they are years, or if the top folders are not numbered too.
    """
    if len(num_images) < 2:
        return []
    numbered = all(re.search(r"\d", name) for name in num_images)

    def is_candidate(name: str) -> bool:
        if NUMBERS.fullmatch(name):
            return numbered and not YEAR.fullmatch(name)
        return may_be_class(name)

    counts: Counter[str] = Counter()
    for folders in num_below.values():
        counts.update({class_key(name) for name in folders if is_candidate(name)})
    min_count = max(2.0, MIN_SHARED * len(num_images))
    shared = {name for name, count in counts.items() if count >= min_count}
    num_inside = sum(
        count
        for folders in num_below.values()
        for name, count in folders.items()
        if class_key(name) in shared
    )
    total = sum(num_images.values()) + sum(sum(folders.values()) for folders in num_below.values())
    if len(shared) < 2 or num_inside < MIN_COVERED * total:
        return []
    return sorted(shared)


def class_name_warnings(classes: Sequence[str]) -> tuple[str, ...]:
    """Return warnings for class names such as those of camera folders, dates or "New folder"."""
    warnings = []
    camera = [name for name in classes if CAMERA.fullmatch(name)]
    dates = [name for name in classes if DATE.fullmatch(name)]
    if camera:
        warnings.append(
            f"class folders have names that cameras and programs give:"
            f" {join_names(camera, 4)}; are these classes?"
        )
    if len(dates) > 1 and len(dates) == len(classes):
        warnings.append(
            f"all classes are named like dates: {join_names(dates, 4)}; are these classes?"
        )
    known = {class_key(name) for name in classes}
    for name in classes:
        match = COPY.fullmatch(name)
        if match is not None and class_key(match[1]) in known:
            warnings.append(
                f"the class folder {name!r} is named like a copy of {match[1]!r}, and is used as"
                " a separate class"
            )
    return tuple(warnings)


def format_folders(names: Sequence[str]) -> str:
    """Format the first names of folders for a message."""
    return join_names([f"{name}/" for name in names], 4)


def is_filed_by_letter(
    num_images: Mapping[str, int], num_below: Mapping[str, Mapping[str, int]]
) -> bool:
    """Return whether class folders are filed under their first letter, as in SUN397 (a/abbey).

    num_images, num_below: the number of images in each top folder, and in each folder in it.
    """
    return len(num_images) > 1 and all(
        len(name) == 1
        and name.isalpha()
        and not count
        and all(each.lower().startswith(name.lower()) for each in num_below[name])
        for name, count in num_images.items()
    )
