"""What annotations of a set state and the readers do not take: fields of COCO, lists of splits."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from resnets.data.layout.folder_names import split_role
from resnets.detect.data.store import Store

READ = {
    "images": frozenset({"id", "file_name", "filename", "path", "coco_url", "width", "height"}),
    "annotations": frozenset(
        {"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd", "difficult"}
    ),
}
# Of an image, who made it, when, and under which terms.
FOR_PEOPLE = frozenset({"license", "date_captured", "flickr_url", "extra", "dataset_id", "info"})
SPLIT_FIELDS = frozenset({"split", "subset", "set", "fold", "partition"})
SHOWN = 8  # fields in a line


def unread_fields(document: dict[str, Any]) -> list[str]:
    """A line of the fields that are not read, for annotations and for images, if any.

    Fields that hold nothing anywhere (0, false, empty) are left out. One that states the split of
    an image is named by itself.
    """
    found = []
    for key, read in READ.items():
        entries = document[key]
        counts = Counter(name for each in entries for name, value in each.items() if value)
        unread = {name: count for name, count in counts.items() if name not in read | FOR_PEOPLE}
        for name in sorted(unread.keys() & SPLIT_FIELDS if key == "images" else ()):
            said = f"{unread.pop(name):,} images state a {name}, which is not used; split the file"
            found.append(f"{said} into train.json, val.json and test.json for such image sets")
        if unread:
            named = [f"{name} (in {count:,})" for name, count in sorted(unread.items())]
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            found.append(f"fields of {key} that are not read: {', '.join(named[:SHOWN])}{more}")
    return found


def unread_lists(store: Store, titles: tuple[str, ...]) -> list[str]:
    """A line of the lists called like splits, where one unnamed set has not read them."""
    if len(titles) != 1 or split_role(titles[0].rpartition(":")[2]):
        return []
    lists = [path for path in store.below("", ".txt") if split_role(PurePosixPath(path).stem)]
    if not lists:
        return []
    return [
        f"{', '.join(lists[:3])}: lists of images that are not read; their image sets need"
        " annotation files of their own, such as train.json and val.json"
    ]
