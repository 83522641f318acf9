"""COCO JSON: objects with boxes and outlines (cocodataset.org/#format-data).

Accepted: annotations/instances_<set>.json with the images of a set in <set>/, as COCO has it, and
any other JSON of the same form in a folder or tar with its images. Which file belongs to which
entry: `image_index`. Scalars in any spelling: `values`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within
from resnets.detect.data.documents import parse_json
from resnets.detect.data.values import (
    read_box,
    read_id,
    read_name,
    read_side,
)
from resnets.detect.formats.coco.find import KEYS
from resnets.detect.formats.coco.objects import (
    are_corners,
    file_name,
    is_rotated,
    read_object,
    repeated_id,
    stated_id,
)
from resnets.detect.formats.records import (
    ID_TWICE,
    Flaw,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
)
from resnets.detect.formats.set_checks import swapped, with_form
from resnets.detect.formats.unread import unread_fields
from resnets.detect.images.entries import Match, Stated, bare_folders, renamed_folders
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.store import Store, add_named, open_named

LARGEST_ID = 1 << 53  # beyond it JSON's numbers are not exact

FEDERATED = "federated annotations (LVIS) counted as complete"
Matcher = Callable[[Sequence[Stated]], list[Match]]


def open_coco(store: Store, files: dict[str, str], name: str, *, masks: bool) -> RawDataset:
    """The sets of `files` (from `find_coco`); classes are those of the training set's file.

    DataError: a file that is no COCO JSON. `masks` keeps the outlines, which take memory.
    """
    training = (title for title in files if role_within(title.rpartition(":")[2]) == "train")
    first = next(training, next(iter(files)))
    read: dict[str, dict[str, Any]] = {}

    def document(title: str) -> dict[str, Any]:
        if title not in read:
            read.clear()  # one at a time: COCO's training set takes gigabytes
            read[title] = _document(store, files[title])
        return read[title]

    whole = document(first)
    categories, notes = _categories(whole, store.called(files[first]))
    images, find = _images_of(whole, store, files[first])

    def load(title: str) -> RawImageSet:
        found = _part(document(title), categories, find, store, files[title], title, masks)
        read.clear()
        return found

    numbers = tuple(sorted(categories))
    classes = tuple(categories[number] for number in numbers)
    titles = tuple(files)
    spelled = {read_id(each.get("id")): each.get("id") for each in whole["categories"]}
    return RawDataset(
        *(name, images, classes, numbers, titles, load),
        notes=notes,
        stated_ids=tuple(stated_id(spelled[number]) for number in numbers),
        caveat=FEDERATED if any("neg_category_ids" in each for each in whole["images"]) else "",
    )


def _images_of(document: dict[str, Any], store: Store, path: str) -> tuple[Store, Matcher]:
    """Where the images are: in the store, or where a repaired file says (`info.pictures`).

    Elsewhere only the files that the document names are looked at.
    """
    info = document.get("info")
    elsewhere = info.get("pictures") if isinstance(info, dict) else None
    if not isinstance(elsewhere, str):
        return store, ImageIndex.of(store).match
    try:
        images = open_named(elsewhere, [file_name(each) for each in document["images"]])
    except DataError as error:
        raise DataError(f"{store.called(path)}: info.pictures: {error}") from error

    def find(entries: Sequence[Stated]) -> list[Match]:
        missing = Match(None, "missing image", f"its image is missing from {elsewhere}")
        names = [entry.names[0] for entry in entries]
        add_named(images, names)
        return [Match(name) if name in images else missing for name in names]

    return images, find


def _document(store: Store, path: str) -> dict[str, Any]:
    where = store.called(path)
    document = parse_json(store.read(path), where)
    lists = isinstance(document, dict) and all(isinstance(document.get(k), list) for k in KEYS)
    if not lists:
        raise DataError(f"{where}: no COCO JSON; it needs lists called {', '.join(KEYS)}")
    for key in KEYS:
        for number, entry in enumerate(document[key]):
            if not isinstance(entry, dict):
                raise DataError(f"{where}: {key}[{number}]: is no object of COCO's form")
            if "segments_info" in entry:
                raise DataError(
                    f"{where}: COCO's panoptic annotations, whose segments are pixels of PNG files,"
                    " are not read; use instances_*.json, or class maps"
                )
    return document


def _categories(document: dict[str, Any], where: str) -> tuple[dict[int, str], list[str]]:
    """Name of each category, and what was understood of them.

    A root that only groups the others (Roboflow's category 0) is no class.
    """
    entries: dict[int, dict[str, Any]] = {}
    for entry in document["categories"]:
        number, name = read_id(entry.get("id")), read_name(entry.get("name"))
        if not isinstance(number, int) or abs(number) > LARGEST_ID or not name:
            raise DataError(f"{where}: categories: {entry} lacks a whole number as id, or a name")
        if number in entries and read_name(entries[number].get("name")) != name:
            raise DataError(f"{where}: categories: {number} ({name}) occurs twice; rename one")
        entries[number] = entry
    if not entries:
        raise DataError(f"{where}: categories: is empty; name at least one")
    notes = []
    for number in [number for number in entries if _is_root(number, entries)]:
        if not any(read_id(each.get("category_id")) == number for each in document["annotations"]):
            name = read_name(entries.pop(number).get("name"))
            notes.append(f"category {number} ({name}) only groups the others; it is no class")
    names = {number: read_name(entry.get("name")) for number, entry in entries.items()}
    for name, count in Counter(names.values()).items():
        if count > 1:
            both = " and ".join(str(number) for number in names if names[number] == name)
            raise DataError(
                f"{where}: categories: {both} are all called {name}; a name that occurs twice"
                " is no class: rename one, or give both the same id"
            )
    return names, notes


def _is_root(number: int, entries: dict[int, dict[str, Any]]) -> bool:
    """Whether a category has no group of its own and is the group of another."""
    own, name = entries[number].get("supercategory"), read_name(entries[number].get("name"))
    groups = (read_name(each.get("supercategory")) for n, each in entries.items() if n != number)
    return read_name(own).lower() in ("", "none") and name in groups


def _part(
    document: dict[str, Any],
    categories: dict[int, str],
    find: Matcher,
    store: Store,
    path: str,
    title: str,
    masks: bool,
) -> RawImageSet:
    where = store.called(path)
    stated_images = len(document["images"])
    names, notes = _names_for(document, categories, where)
    images = document["images"] = _without_copies(document["images"])
    if copies := stated_images - len(images):
        notes.append(f"{where}: {copies:,} images are listed twice, alike; read once")
    label_of = {number: label for label, number in enumerate(sorted(categories))}
    ids = [read_id(entry.get("id")) for entry in document["images"]]
    count = Counter(ids)
    objects: dict[Any, list[RawObject]] = defaultdict(list)
    orphans: list[Problem] = []
    first_of: dict[int | str, int] = {}
    backward = 0
    for number, entry in enumerate(document["annotations"]):
        found, turned = read_object(entry, number, label_of, names, masks)
        backward += turned
        stated = entry.get("image_id")
        image = read_id(stated)
        if image is None or count[image] != 1:
            message = "no such image in the file" if not count[image] else "two images have this id"
            kind = "no image" if image is None or not count[image] else ID_TWICE
            orphans.append(Problem(where, found.item, kind, f"image_id {stated!r}: {message}"))
            continue
        key = read_id(entry.get("id"))
        if key is not None and first_of.setdefault(key, number) != number:
            twin = document["annotations"][first_of[key]]
            found = replace(found, flaws=(*found.flaws, repeated_id(entry, twin)))
        objects[image].append(found)
    entries = [Stated((file_name(entry),), path, title) for entry in document["images"]]
    if are_corners(document):
        form = "bbox is two corners (x1, y1, x2, y2), not x, y, width, height"
    else:
        stated_boxes = [read_box(entry.get("bbox")) for entry in document["annotations"]]
        corners = [(x, y, x + wide, y + high) for x, y, wide, high in stated_boxes]
        form = swapped(corners, [(0, 0)] * len(corners))
    for image, mine in objects.items():
        objects[image] = list(with_form(mine, form))
    matches = find(entries)
    understood = (*renamed_folders(matches), *bare_folders(entries, matches))
    notes += [f"{where}: {note}" for note in understood]
    problems, records = [], []
    for entry, image, match in zip(document["images"], ids, matches, strict=True):
        item = file_name(entry) or f"image {entry.get('id')!r}"
        if image is None or count[image] > 1:
            message = "its id is neither a number nor text" if image is None else "id occurs twice"
            item = f"image {entry.get('id')!r}"
            problems.append(
                Problem(where, item, ID_TWICE if image is not None else "no id", message)
            )
            continue
        lacking = None if match.path is not None else Flaw(match.kind, match.message)
        width, height = read_side(entry.get("width")), read_side(entry.get("height"))
        records.append(
            RawImage(
                image,
                match.path,
                item,
                where,
                width,
                height,
                tuple(objects[image]),
                lacking=lacking,
                stated_id=stated_id(entry.get("id")),
            )
        )
    notes += [f"{where}: {note}" for note in unread_fields(document)]
    if rotated := sum(map(is_rotated, document["annotations"])):
        notes.append(
            f"{where}: {rotated:,} boxes have a rotation (attributes.rotation), which is not read:"
            " upright boxes of their sides are used for the rotated ones"
        )
    if backward and not form:
        notes.append(f"{where}: {backward:,} boxes of negative width or height were turned round")
    return RawImageSet(records, problems, orphans, len(document["annotations"]), notes)


def _without_copies(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, those of one id that are alike once."""
    first: dict[Any, dict[str, Any]] = {}
    kept = []
    for entry in images:
        key = read_id(entry.get("id"))
        if key is None or first.setdefault(key, entry) is entry or first[key] != entry:
            kept.append(entry)
    return kept


def _names_for(
    document: dict[str, Any], categories: dict[int, str], where: str
) -> tuple[dict[int, str], list[str]]:
    """Names for messages; DataError where an id that is used is another class than in training."""
    stated, notes = _categories(document, where)
    unlike = {number for number in stated if stated[number] != categories.get(number)}
    used = {read_id(entry.get("category_id")) for entry in document["annotations"]} & unlike
    for number in sorted(each for each in used if isinstance(each, int)):
        raise DataError(
            f"{where}: category {number} ({stated[number]}) is not what it is in the"
            f" training set ({categories.get(number, 'missing')}); use one list for both"
        )
    if unlike:
        named = ", ".join(stated[number] for number in sorted(unlike))
        notes.append(f"{where}: no object is of the categories that training lacks: {named}")
    return {**stated, **categories}, notes


def _is_numeric(points: Any) -> bool:
    return isinstance(points, np.ndarray) and points.dtype.kind in "iuf"
