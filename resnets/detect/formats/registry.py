"""Formats of annotated objects: how each is found in a store and opened.

A new one is a module with `find` and `open` functions and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from resnets.detect.formats.coco.dataset import open_coco
from resnets.detect.formats.coco.find import drawn_coco, find_coco
from resnets.detect.formats.cvat import find_cvat, open_cvat
from resnets.detect.formats.labelme import find_labelme, open_labelme
from resnets.detect.formats.records import RawDataset
from resnets.detect.formats.rle_csv import Order, find_rle_csv, open_rle_csv
from resnets.detect.formats.unread import unread_lists
from resnets.detect.formats.voc.dataset import open_voc
from resnets.detect.formats.voc.lists import find_voc
from resnets.detect.formats.yolo.dataset import find_yolo, open_yolo
from resnets.detect.images.store import Store


@dataclass(frozen=True)
class Format:
    """One form of annotations.

    key: what `detect.format` calls it. find: what of a store it would read, or something empty.
    open: the set of what was found, by its name, with outlines or without. outlines: there may be.
    stated: it is only read where `detect.format` says so.
    """

    key: str
    name: str
    find: Callable[[Store], Any]
    open: Callable[[Store, Any, str, bool], RawDataset]
    outlines: bool = True
    stated: bool = False


def _coco(store: Store, found: Any, name: str, masks: bool) -> RawDataset:
    return open_coco(store, found, name, masks=masks)


def _find_voc(store: Store) -> dict[str, list[str]]:
    """VOC's files; CVAT's are XML too."""
    return {} if set(store.below("", ".xml")) <= set(find_cvat(store)) else find_voc(store)


def _voc(store: Store, found: Any, name: str, _masks: bool) -> RawDataset:
    return open_voc(store, found, name)


FORMATS = (
    Format("coco", "COCO JSON", find_coco, _coco),
    Format("cvat", "CVAT XML", find_cvat, open_cvat),
    Format("voc", "VOC XML", _find_voc, _voc, outlines=False),
    Format("labelme", "labelme JSON", find_labelme, open_labelme),
    Format("yolo", "YOLO text files", find_yolo, open_yolo),
    Format("rle", "CSV of run lengths", find_rle_csv, open_rle_csv),
    *(
        Format(
            f"rle-{order}",
            f"CSV of run lengths along the {order}",
            find_rle_csv,
            partial(open_rle_csv, order=order),
            stated=True,
        )
        for order in get_args(Order)
    ),
)


@dataclass(frozen=True)
class FormatMatch:
    """A format that a store has annotations in, and what its `find` said."""

    format: Format
    found: Any


def offers(store: Store, wanted: str = "") -> list[FormatMatch]:
    """The formats that the store has annotations in, in the order of preference.

    wanted: `detect.format`; "" = any.
    """
    chosen = [each for each in FORMATS if wanted == each.key or not (wanted or each.stated)]
    found = [FormatMatch(each, each.find(store)) for each in chosen]
    return [offer for offer in found if offer.found]


def open_offer(store: Store, found: list[FormatMatch], name: str, masks: bool) -> RawDataset:
    """The set in the first of `found`; a note says which others are not read."""
    first, *others = found
    source = first.format.open(store, first.found, name, masks)
    if drawn := drawn_coco(store):
        note = f"{drawn[0]} lies in a folder of drawings or predictions; it is not read"
        source = replace(source, notes=(note, *source.notes))
    if first.format.key in ("coco", "cvat", "labelme"):  # the others read lists
        notes = unread_lists(store, source.titles)
        source = replace(source, notes=(*notes, *source.notes))
    if not others:
        return source
    listed = ", ".join(f"{each.format.name} (detect.format={each.format.key})" for each in others)
    note = f"{first.format.name} is read; there are annotations as {listed} too"
    return replace(source, notes=(note, *source.notes))
