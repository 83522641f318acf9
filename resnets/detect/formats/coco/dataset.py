"""COCO JSON: objects with boxes and segmentations (cocodataset.org/#format-data).

Accepted: annotations/instances_<set>.json with the images of a set in <set>/, as in COCO, and any
other JSON of the same form in a folder or archive with its images. Which file belongs to which
entry: `images.index`. Scalars in any spelling: `data.values`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from resnets.data.errors import DataError
from resnets.detect.data.documents import parse_json
from resnets.detect.data.values import (
    read_box,
    read_id,
    read_name,
    read_side,
)
from resnets.detect.formats.box_format_check import add_form_flaw, explain_swapped_corners
from resnets.detect.formats.coco.find import KEYS
from resnets.detect.formats.coco.objects import (
    has_corner_boxes,
    image_file_name,
    is_rotated,
    read_object,
    repeated_id_flaw,
    to_result_id,
)
from resnets.detect.formats.records import (
    ID_TWICE,
    Flaw,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    set_role,
)
from resnets.detect.formats.unread import list_unread_fields
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import (
    ImageReference,
    Match,
    describe_folders_of_bare_names,
    describe_renamed_folders,
)
from resnets.detect.images.store import Store, add_listed_images, open_listed_images

LARGEST_ID = 1 << 53  # beyond it JSON's numbers are not exact

FEDERATED = "federated annotations (LVIS) counted as complete"
Matcher = Callable[[Sequence[ImageReference]], list[Match]]


def open_coco(store: Store, files: dict[str, str], name: str, *, masks: bool) -> RawDataset:
    """Open the image sets of `files` (from `find_coco`); classes are those of the training set.

    masks: whether to keep outlines, which take memory. DataError for a file that is not COCO JSON.
    """
    training = (title for title in files if set_role(title) == "train")
    first = next(training, next(iter(files)))
    loaded: dict[str, dict[str, Any]] = {}

    def document(title: str) -> dict[str, Any]:
        if title not in loaded:
            loaded.clear()  # one at a time: COCO's training set takes gigabytes
            loaded[title] = _read_document(store, files[title])
        return loaded[title]

    first_document = document(first)
    categories, notes = _read_categories(first_document, store.display_path(files[first]))
    images, match = _find_images(first_document, store, files[first])

    def load(title: str) -> RawImageSet:
        found = _read_image_set(
            document(title), categories, match, store, files[title], title, masks
        )
        loaded.clear()
        return found

    category_ids = tuple(sorted(categories))
    classes = tuple(categories[number] for number in category_ids)
    titles = tuple(files)
    written_ids = {read_id(each.get("id")): each.get("id") for each in first_document["categories"]}
    return RawDataset(
        name,
        images,
        classes,
        category_ids,
        titles,
        load,
        notes=notes,
        original_ids=tuple(to_result_id(written_ids[number]) for number in category_ids),
        caveat=FEDERATED
        if any("neg_category_ids" in each for each in first_document["images"])
        else "",
    )


def _find_images(document: dict[str, Any], store: Store, path: str) -> tuple[Store, Matcher]:
    """Return the store of the images, and how to match entries with it.

    It is `store`, or the place that a repaired file specifies (`info.pictures`). There, only the
    files named in the document are accessed.
    """
    info = document.get("info")
    folder = info.get("pictures") if isinstance(info, dict) else None
    if not isinstance(folder, str):
        return store, ImageIndex.of(store).match
    try:
        images = open_listed_images(folder, [image_file_name(each) for each in document["images"]])
    except DataError as error:
        raise DataError(f"{store.display_path(path)}: info.pictures: {error}") from error

    def match(entries: Sequence[ImageReference]) -> list[Match]:
        missing = Match(None, "missing image", f"its image is missing from {folder}")
        names = [entry.names[0] for entry in entries]
        add_listed_images(images, names)
        return [Match(name) if name in images else missing for name in names]

    return images, match


def _read_document(store: Store, path: str) -> dict[str, Any]:
    where = store.display_path(path)
    document = parse_json(store.read(path), where)
    lists = isinstance(document, dict) and all(isinstance(document.get(k), list) for k in KEYS)
    if not lists:
        raise DataError(f"{where}: not COCO JSON; it needs lists called {', '.join(KEYS)}")
    for key in KEYS:
        for number, entry in enumerate(document[key]):
            if not isinstance(entry, dict):
                raise DataError(f"{where}: {key}[{number}]: is not a COCO object")
            if "segments_info" in entry:
                raise DataError(
                    f"{where}: COCO's panoptic annotations, whose segments are pixels of PNG files,"
                    " are not read; use instances_*.json, or class maps"
                )
    return document


def _read_categories(document: dict[str, Any], where: str) -> tuple[dict[int, str], list[str]]:
    """Return the name of each category, and notes.

    A root that only groups the others (Roboflow's category 0) is not a class.
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
            notes.append(f"category {number} ({name}) only groups the others; it is not a class")
    names = {number: read_name(entry.get("name")) for number, entry in entries.items()}
    for name, count in Counter(names.values()).items():
        if count > 1:
            numbers = " and ".join(str(number) for number in names if names[number] == name)
            raise DataError(
                f"{where}: categories: {numbers} are all called {name}; a name that occurs twice"
                " is no class: rename one, or give both the same id"
            )
    return names, notes


def _is_root(number: int, entries: dict[int, dict[str, Any]]) -> bool:
    """Return whether a category has no supercategory and is the supercategory of another."""
    supercategory, name = (
        entries[number].get("supercategory"),
        read_name(entries[number].get("name")),
    )
    groups = (read_name(each.get("supercategory")) for n, each in entries.items() if n != number)
    return read_name(supercategory).lower() in ("", "none") and name in groups


def _read_image_set(
    document: dict[str, Any],
    categories: dict[int, str],
    find_matches: Matcher,
    store: Store,
    path: str,
    title: str,
    masks: bool,
) -> RawImageSet:
    where = store.display_path(path)
    num_listed = len(document["images"])
    names, notes = _check_categories(document, categories, where)
    images = document["images"] = _drop_copies(document["images"])
    if copies := num_listed - len(images):
        notes.append(f"{where}: {copies:,} images are listed twice; read once")
    label_of = {number: label for label, number in enumerate(sorted(categories))}
    ids = [read_id(entry.get("id")) for entry in images]
    counts = Counter(ids)
    objects, orphans, num_backward = _read_objects(document, counts, label_of, names, masks, where)
    entries = [ImageReference((image_file_name(entry),), path, title) for entry in images]
    if has_corner_boxes(document):
        form = "bbox is two corners (x1, y1, x2, y2), not x, y, width, height"
    else:
        boxes = [read_box(entry.get("bbox")) for entry in document["annotations"]]
        corners = [(x, y, x + wide, y + high) for x, y, wide, high in boxes]
        form = explain_swapped_corners(corners, [(0, 0)] * len(corners))
    for image_id, listed in objects.items():
        objects[image_id] = list(add_form_flaw(listed, form))
    matches = find_matches(entries)
    match_notes = (
        *describe_renamed_folders(matches),
        *describe_folders_of_bare_names(entries, matches),
    )
    notes += [f"{where}: {note}" for note in match_notes]
    problems, records = _read_images(images, ids, counts, matches, objects, where)
    notes += [f"{where}: {note}" for note in list_unread_fields(document)]
    if num_rotated := sum(map(is_rotated, document["annotations"])):
        notes.append(
            f"{where}: {num_rotated:,} boxes have a rotation (attributes.rotation), which is not"
            " read: upright boxes of their sides are used for the rotated ones"
        )
    if num_backward and not form:
        notes.append(f"{where}: {num_backward:,} boxes of negative width or height were flipped")
    return RawImageSet(records, problems, orphans, len(document["annotations"]), notes)


def _read_objects(
    document: dict[str, Any],
    counts: Counter[Any],
    label_of: dict[int, int],
    names: dict[int, str],
    masks: bool,
    where: str,
) -> tuple[dict[Any, list[RawObject]], list[Problem], int]:
    """Read the annotations: objects by id of the image, those of no image, number of flipped boxes.

    counts: number of images with each id.
    """
    objects: dict[Any, list[RawObject]] = defaultdict(list)
    orphans: list[Problem] = []
    index_of_id: dict[int | str, int] = {}
    num_backward = 0
    for number, entry in enumerate(document["annotations"]):
        raw_object, has_negative_side = read_object(entry, number, label_of, names, masks)
        num_backward += has_negative_side
        written_id = entry.get("image_id")
        image_id = read_id(written_id)
        if image_id is None or counts[image_id] != 1:
            message = (
                "no such image in the file" if not counts[image_id] else "two images have this id"
            )
            kind = "no image" if image_id is None or not counts[image_id] else ID_TWICE
            orphans.append(
                Problem(where, raw_object.item, kind, f"image_id {written_id!r}: {message}")
            )
            continue
        object_id = read_id(entry.get("id"))
        if object_id is not None and index_of_id.setdefault(object_id, number) != number:
            first = document["annotations"][index_of_id[object_id]]
            raw_object = replace(
                raw_object, flaws=(*raw_object.flaws, repeated_id_flaw(entry, first))
            )
        objects[image_id].append(raw_object)
    return objects, orphans, num_backward


def _read_images(
    images: Sequence[dict[str, Any]],
    ids: Sequence[Any],
    counts: Counter[Any],
    matches: Sequence[Match],
    objects: dict[Any, list[RawObject]],
    where: str,
) -> tuple[list[Problem], list[RawImage]]:
    """Read the entries of images: those without an id of their own, and the others as records.

    counts: number of images with each id.
    """
    problems, records = [], []
    for entry, image_id, match in zip(images, ids, matches, strict=True):
        item = image_file_name(entry) or f"image {entry.get('id')!r}"
        if image_id is None or counts[image_id] > 1:
            message = (
                "its id is neither a number nor text" if image_id is None else "id occurs twice"
            )
            item = f"image {entry.get('id')!r}"
            problems.append(
                Problem(where, item, ID_TWICE if image_id is not None else "no id", message)
            )
            continue
        missing = None if match.path is not None else Flaw(match.kind, match.message)
        width, height = read_side(entry.get("width")), read_side(entry.get("height"))
        records.append(
            RawImage(
                image_id,
                match.path,
                item,
                where,
                width,
                height,
                tuple(objects[image_id]),
                missing=missing,
                original_id=to_result_id(entry.get("id")),
            )
        )
    return problems, records


def _drop_copies(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries without those that repeat another of the same id exactly."""
    first: dict[Any, dict[str, Any]] = {}
    unique = []
    for entry in images:
        key = read_id(entry.get("id"))
        if key is None or first.setdefault(key, entry) is entry or first[key] != entry:
            unique.append(entry)
    return unique


def _check_categories(
    document: dict[str, Any], categories: dict[int, str], where: str
) -> tuple[dict[int, str], list[str]]:
    """Return category names for messages; DataError if a used id differs from that of training."""
    names, notes = _read_categories(document, where)
    different = {number for number in names if names[number] != categories.get(number)}
    misused = {read_id(entry.get("category_id")) for entry in document["annotations"]} & different
    for number in sorted(each for each in misused if isinstance(each, int)):
        raise DataError(
            f"{where}: category {number} ({names[number]}) is not what it is in the"
            f" training set ({categories.get(number, 'missing')}); use one list for both"
        )
    if different:
        listed = ", ".join(names[number] for number in sorted(different))
        notes.append(f"{where}: no object is of the categories that training lacks: {listed}")
    return {**names, **categories}, notes
