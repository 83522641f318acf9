"""`FORMATS`, the formats of annotated objects: how each is found in a store and opened.

A new one is a module with `find` and `open` functions and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from resnets.detect.formats.coco.dataset import open_coco
from resnets.detect.formats.coco.find import find_coco, find_drawn_coco
from resnets.detect.formats.cvat import find_cvat, open_cvat
from resnets.detect.formats.labelme import find_labelme, open_labelme
from resnets.detect.formats.records import RawDataset
from resnets.detect.formats.rle_csv import Order, find_rle_csv, open_rle_csv
from resnets.detect.formats.unread import list_unread_split_lists
from resnets.detect.formats.voc.dataset import open_voc
from resnets.detect.formats.voc.lists import find_voc
from resnets.detect.formats.yolo.dataset import find_yolo, open_yolo
from resnets.detect.images.store import Store


@dataclass(frozen=True)
class Format:
    """One annotation format.

    key: its name in `detect.format`. find: returns the annotations of a store in this format, or an
    empty value. open: opens what `find` returned, given the name of the set and whether to read
    outlines. outlines: whether the format can have outlines. explicit: whether it is read only if
    `detect.format` specifies it.
    """

    key: str
    name: str
    find: Callable[[Store], Any]
    open: Callable[[Store, Any, str, bool], RawDataset]
    outlines: bool = True
    explicit: bool = False


def _coco(store: Store, found: Any, name: str, masks: bool) -> RawDataset:
    return open_coco(store, found, name, masks=masks)


def _find_voc(store: Store) -> dict[str, list[str]]:
    """Return VOC's files; CVAT's are XML too."""
    return {} if set(store.find_files("", ".xml")) <= set(find_cvat(store)) else find_voc(store)


def _voc(store: Store, found: Any, name: str, _masks: bool) -> RawDataset:
    return open_voc(store, found, name)


FORMATS = (
    Format("coco", "COCO JSON", find_coco, _coco),
    Format("cvat", "CVAT XML", find_cvat, open_cvat),
    Format("voc", "VOC XML", _find_voc, _voc, outlines=False),
    Format("labelme", "labelme JSON", find_labelme, open_labelme),
    Format("yolo", "YOLO text files", find_yolo, open_yolo),
    Format("rle", "CSV of run-length encodings (RLE)", find_rle_csv, open_rle_csv),
    *(
        Format(
            f"rle-{order}",
            f"CSV of run-length encodings (RLE) along the {order}",
            find_rle_csv,
            partial(open_rle_csv, order=order),
            explicit=True,
        )
        for order in get_args(Order)
    ),
)


@dataclass(frozen=True)
class FormatMatch:
    """A format that a store has annotations in, and what its `find` returned."""

    format: Format
    found: Any


def find_formats(store: Store, key: str = "") -> list[FormatMatch]:
    """Return the formats that the store has annotations in, in order of preference.

    key: `detect.format`; "" = any.
    """
    tried = [each for each in FORMATS if key == each.key or not (key or each.explicit)]
    matches = [FormatMatch(each, each.find(store)) for each in tried]
    return [match for match in matches if match.found]


def open_first_format(
    store: Store, matches: list[FormatMatch], name: str, masks: bool
) -> RawDataset:
    """Open the set in the first of `matches`; a note lists the others, which are not read."""
    first, *others = matches
    source = first.format.open(store, first.found, name, masks)
    if drawn := find_drawn_coco(store):
        note = f"{drawn[0]} lies in a folder of drawings or predictions; it is not read"
        source = replace(source, notes=(note, *source.notes))
    if first.format.key in ("coco", "cvat", "labelme"):  # the others read lists
        notes = list_unread_split_lists(store, source.titles)
        source = replace(source, notes=(*notes, *source.notes))
    if not others:
        return source
    listed = ", ".join(f"{each.format.name} (detect.format={each.format.key})" for each in others)
    note = f"{first.format.name} is read; there are annotations as {listed} too"
    return replace(source, notes=(note, *source.notes))
