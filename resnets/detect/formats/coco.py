"""COCO JSON: objects with boxes and outlines (cocodataset.org/#format-data).

Accepted: annotations/instances_<set>.json with the images of a set in <set>/, as COCO has it, and
any other JSON of the same form in a folder or tar with its images. Which file belongs to which
entry: `image_index`. Scalars in any spelling: `values`.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.data.layout.split_names import role_within
from resnets.detect.data.documents import parse_json
from resnets.detect.data.image_entries import Match, Stated, bare_folders, renamed_folders
from resnets.detect.data.image_index import ImageIndex
from resnets.detect.data.image_names import is_drawn
from resnets.detect.data.records import (
    ID_TWICE,
    Flaw,
    Problem,
    RawObject,
    RawPart,
    RawPicture,
    RawSource,
)
from resnets.detect.data.store import Store, add_named, open_named
from resnets.detect.data.values import (
    read_box,
    read_flag,
    read_id,
    read_name,
    read_number,
    read_side,
)
from resnets.detect.formats.box_form import swapped, with_form
from resnets.detect.formats.unread import unread_fields

KEYS = ("images", "annotations", "categories")
PLAIN_NAMES = ("_annotations.coco", "annotations", "instances", "coco", "labels", "result")
PLAIN_FOLDERS = ("annotations", "annotation", "labels", "json", "coco", "result")
# Files beside instances_<set>.json that are about the same images.
COMPANIONS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
SAMPLE = 500  # boxes that are looked at to tell their form
NAME_KEYS = ("file_name", "filename", "path", "coco_url")
SHOWN = 80  # letters of a value in a message
LARGEST_ID = 1 << 53  # beyond it JSON's numbers are not exact

Matcher = Callable[[Sequence[Stated]], list[Match]]


def find_coco(store: Store) -> dict[str, str]:
    """Image set -> JSON file that describes it; empty where the store has no COCO JSON.

    Sets of one name in several folders are told apart by them ("cam1:train"). Captions, key points
    and panoptic maps beside instances_*.json are of the same images, and not looked at; nor are
    files in folders of drawings (`drawn_coco`).
    """
    files = [path for path in store.below("", ".json") if not is_drawn(path)]
    official = {_folder(path) for path in files if _is_official(path)}
    found = []
    for path in files:
        name = PurePosixPath(path).name.lower()
        if _folder(path) in official and name.startswith(COMPANIONS):
            continue
        if _is_official(path) or _looks_like_coco(store.read(path), store.called(path)):
            found.append(path)
    return _titled(found)


def drawn_coco(store: Store) -> list[str]:
    """COCO JSON in folders of drawings and predictions, which is no annotation."""
    return [
        path
        for path in store.below("", ".json")
        if is_drawn(path) and _looks_like_coco(store.read(path), store.called(path))
    ]


def why_no_coco(store: Store) -> str:
    """Why the first JSON that is damaged, or has some of COCO's lists, is none; "" without any."""
    if drawn := drawn_coco(store):
        return f"{store.called(drawn[0])}: lies in a folder of drawings or predictions; move it"
    for path in store.below("", ".json"):
        try:
            document = parse_json(store.read(path), store.called(path))
        except DataError as error:
            return str(error)
        lacking = [key for key in KEYS if not isinstance(document, dict) or key not in document]
        if 0 < len(lacking) < len(KEYS):
            return (
                f"{store.called(path)}: lacks COCO's {' and '.join(lacking)}; it needs lists"
                f" called {', '.join(KEYS)}"
            )
    return ""


def open_coco(store: Store, files: dict[str, str], name: str, *, masks: bool) -> RawSource:
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

    def load(title: str) -> RawPart:
        found = _part(document(title), categories, find, store, files[title], title, masks)
        read.clear()
        return found

    numbers = tuple(sorted(categories))
    classes = tuple(categories[number] for number in numbers)
    titles = tuple(files)
    spelled = {read_id(each.get("id")): each.get("id") for each in whole["categories"]}
    return RawSource(
        *(name, images, classes, numbers, titles, load),
        has_masks=True,
        notes=notes,
        stated_ids=tuple(stated_id(spelled[number]) for number in numbers),
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
        images = open_named(elsewhere, [_called(each) for each in document["images"]])
    except DataError as error:
        raise DataError(f"{store.called(path)}: info.pictures: {error}") from error

    def find(entries: Sequence[Stated]) -> list[Match]:
        missing = Match(None, "missing image", f"its image is missing from {elsewhere}")
        names = [entry.names[0] for entry in entries]
        add_named(images, names)
        return [Match(name) if name in images else missing for name in names]

    return images, find


def _is_official(path: str) -> bool:
    return PurePosixPath(path).name.lower().startswith("instances_")


def _looks_like_coco(data: bytes, where: str) -> bool:
    """Whether it has COCO's lists; a damaged file that seems to is opened, and then named."""
    if b"\0" not in data[:4] and not all(f'"{key}"'.encode() in data for key in KEYS[:2]):
        return False  # at a glance: labelme's files hold whole images
    try:
        document = parse_json(data, where)
    except DataError:
        return all(f'"{key}"'.encode() in data for key in KEYS[:2])
    return isinstance(document, dict) and all(key in document for key in KEYS)


def _titled(paths: Sequence[str]) -> dict[str, str]:
    """Each file by its title; those of one title by their folder too, and at last by their path."""
    titles = [_title(path) for path in paths]
    for prefixes in (["/".join(_telling(path)) for path in paths], paths):
        count = Counter(titles)
        titles = [
            f"{prefix}:{_title(path)}".removeprefix(":") if count[title] > 1 else title
            for path, title, prefix in zip(paths, titles, prefixes, strict=True)
        ]
    return dict(zip((title.replace("+", "_") for title in titles), paths, strict=True))


def _title(path: str) -> str:
    """ "train2017" of annotations/instances_train2017.json, "train" of train/annotations.json."""
    stem = PurePosixPath(path).stem.replace("+", "_")  # it joins titles
    if stem.lower() in PLAIN_NAMES:
        return next(reversed(_telling(path)), "").replace("+", "_")
    return stem.removeprefix("instances_").removesuffix("_annotations").removeprefix("annotations_")


def _telling(path: str) -> list[str]:
    """The folders of a file that are called otherwise than where annotations lie."""
    return [part for part in PurePosixPath(path).parts[:-1] if part.lower() not in PLAIN_FOLDERS]


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


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
) -> RawPart:
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
        found, turned = _object(entry, number, label_of, names, masks)
        backward += turned
        stated = entry.get("image_id")
        image = read_id(stated)
        if image is None or count[image] != 1:
            said = "no such image in the file" if not count[image] else "two images have this id"
            kind = "no image" if image is None or not count[image] else ID_TWICE
            orphans.append(Problem(where, found.item, kind, f"image_id {stated!r}: {said}"))
            continue
        key = read_id(entry.get("id"))
        if key is not None and first_of.setdefault(key, number) != number:
            twin = document["annotations"][first_of[key]]
            found = replace(found, flaws=(*found.flaws, _twice(entry, twin)))
        objects[image].append(found)
    entries = [Stated((_called(entry),), path, title) for entry in document["images"]]
    if _are_corners(document):
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
    problems, pictures = [], []
    for entry, image, match in zip(document["images"], ids, matches, strict=True):
        item = _called(entry) or f"image {entry.get('id')!r}"
        if image is None or count[image] > 1:
            said = "its id is neither a number nor text" if image is None else "id occurs twice"
            item = f"image {entry.get('id')!r}"
            problems.append(Problem(where, item, ID_TWICE if image is not None else "no id", said))
            continue
        lacking = None if match.path is not None else Flaw(match.kind, match.said)
        width, height = read_side(entry.get("width")), read_side(entry.get("height"))
        pictures.append(
            RawPicture(
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
    if backward and not form:
        notes.append(f"{where}: {backward:,} boxes of negative width or height were turned round")
    return RawPart(pictures, problems, orphans, len(document["annotations"]), notes)


def stated_id(value: Any) -> int | str:
    """An id as results are to spell it: text stays text, whole numbers are numbers."""
    return int(value) if isinstance(value, float) else value


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


def _are_corners(document: dict[str, Any]) -> bool:
    """Whether boxes are written as two corners, by a sample of them.

    Nearly all are valid so, and the stated areas or outlines are those of such boxes; where neither
    is stated, half of the boxes at least would pass the edge of their image otherwise.
    """
    annotations = document["annotations"]
    sizes = {read_id(each.get("id")): each for each in document["images"]}
    corners = sides = beyond = looked = invalid = 0
    for entry in annotations[:: max(1, len(annotations) // SAMPLE)]:
        x, y, z, w = read_box(entry.get("bbox"))
        if not (z > x >= 0 and w > y >= 0):
            invalid += 1
            continue
        if x + y == 0:
            continue
        looked += 1
        size = sizes.get(read_id(entry.get("image_id")), {})
        beyond += (
            x + z > read_side(size.get("width")) + 1 or y + w > read_side(size.get("height")) + 1
        )
        area, around = read_number(entry.get("area")), _bounds(entry.get("segmentation"))
        if around is not None:
            corners += _near(around, (x, y, z, w)) and not _near(around, (x, y, x + z, y + w))
            sides += _near(around, (x, y, x + z, y + w))
        elif area > 0:
            corners += abs(area - (z - x) * (w - y)) < 0.02 * area
            sides += abs(area - z * w) < 0.02 * area
    if 10 * invalid > looked + invalid or 10 * sides > corners:
        return False
    return looked > 0 and (corners > 0 or 2 * beyond >= looked > 1)


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 2 for a, b in zip(one, other, strict=True))


def _bounds(outline: Any) -> tuple[float, float, float, float] | None:
    """The box around polygons; None for all else."""
    if not isinstance(outline, list) or not outline or not all(map(_is_flat, outline)):
        return None
    values = [[read_number(each) for each in points] for points in outline]
    across = [each for points in values for each in points[::2]]
    down = [each for points in values for each in points[1::2]]
    if not across or not down:
        return None
    return min(across), min(down), max(across), max(down)


def _twice(entry: dict[str, Any], twin: dict[str, Any]) -> Flaw:
    """What is wrong with the second of two objects of one id."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    if all(entry.get(key) == twin.get(key) for key in keys):
        return Flaw("duplicate", "occurs twice, all values alike")
    return Flaw(ID_TWICE, "id occurs twice")


def _called(entry: dict[str, Any]) -> str:
    """The name of an image's file: `file_name`, or what tools write that leave it out."""
    for key in NAME_KEYS:
        name = entry.get(key)
        if name := name if isinstance(name, str) else read_name(name):
            return name
    return ""


def _object(
    entry: dict[str, Any],
    number: int,
    label_of: dict[int, int],
    names: dict[int, str],
    masks: bool,
) -> tuple[RawObject, bool]:
    """An object, and whether its box has a negative side.

    Values that are missing or of a wrong type become NaN, -1 or flaws, which the check names.
    """
    stated = entry.get("category_id")
    category = read_id(stated)
    bbox = read_box(entry.get("bbox"))
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    turned = width < 0 or height < 0
    if turned:
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    area = read_number(entry.get("area"))
    crowd, difficult = read_flag(entry.get("iscrowd")), read_flag(entry.get("difficult"))
    flaws: tuple[Flaw, ...] = ()
    if crowd is None or difficult is None:
        key = "iscrowd" if crowd is None else "difficult"
        flaws = (Flaw("value", f"its {key} {entry[key]!r} is neither yes nor no"),)
    if not all(map(math.isfinite, bbox)):
        said = f"its bbox {_shown(entry)} is not four numbers x, y, width, height"
        flaws = (*flaws, Flaw("no number", said))
    outline = _outline(entry.get("segmentation")) if masks else None
    found = RawObject(
        item=f"annotation {entry.get('id', f'number {number}')}",
        label=label_of.get(category, -1) if isinstance(category, int) else -1,
        category=str(names.get(category, stated)) if isinstance(category, int) else repr(stated),
        box=(left, top, right, bottom),
        area=area if area > 0 else None,
        crowd=bool(crowd),
        difficult=bool(difficult),  # as our repaired VOC sets have it
        segmentation=outline,
        number=number,
        flaws=flaws,
        bare=outline is None,
    )
    return found, turned


def _shown(entry: dict[str, Any]) -> str:
    """The bbox as the file has it, shortened; "is missing" where there is none."""
    if "bbox" not in entry:
        return "(missing)"
    text = json.dumps(entry["bbox"], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _outline(value: Any) -> Any:
    """A segmentation with its polygons as arrays, a third of the memory; bad ones as they are."""
    if not isinstance(value, list):
        return value or None
    value = [points for points in value if points != []]
    if value and (_is_flat(value) or all(map(_is_pair, value))):
        value = [value]  # one polygon that is not in a list of its own
    value = [_flattened(points) for points in value]
    arrays = [np.asarray(p) if _is_flat(p) else p for p in value]
    return [p.astype(np.float64) if _is_numeric(p) else p for p in arrays] or None


def _is_pair(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and _is_flat(point)


def _flattened(points: Any) -> Any:
    """Corners [[x, y], [x, y], ...] as x, y, x, y, ...; all else as it is."""
    if isinstance(points, list) and points and all(map(_is_pair, points)):
        return [each for pair in points for each in pair]
    return points


def _is_flat(points: Any) -> bool:
    return isinstance(points, list) and not any(isinstance(each, list | dict) for each in points)


def _is_numeric(points: Any) -> bool:
    return isinstance(points, np.ndarray) and points.dtype.kind in "iuf"
