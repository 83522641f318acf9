"""Sets whose annotations name no split, but whose images lie in folders called like splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from resnets.data.layout.folder_names import role_within, split_role
from resnets.detect.formats.records import RawDataset, RawImage, RawImageSet


def split_by_folders(source: RawDataset) -> RawDataset:
    """The source, its one set without a split's name divided by the folders of its images.

    Only where those are of two splits or more; so that images of test/ are never trained on.
    """
    if len(source.titles) != 1 or role_within(source.titles[0].rpartition(":")[2]) is not None:
        return source
    paths = source.store.image_paths
    if len({split_role(name) for name in map(_folder, paths) if name}) < 2:
        return source
    whole = source.load(source.titles[0])
    groups: dict[str, list[RawImage]] = defaultdict(list)
    for image in whole.images:
        groups[_folder(image.path or image.name)].append(image)
    names = sorted(filter(None, groups))
    if len(set(map(split_role, names))) < 2:
        return source
    first = next((name for name in names if split_role(name) == "train"), names[0])
    missing = [image for image in groups.get("", ()) if image.path is None]
    groups[first] += missing  # so that training names them
    groups[""] = [image for image in groups.get("", ()) if image.path is not None]

    def load(title: str) -> RawImageSet:
        return _part(whole, groups[title], title == first)

    titles = (*names, *([""] if groups[""] else []))
    listed = ", ".join(f"{name}/" for name in names)
    note = f"images of one list lie in {listed}; each is an image set of its own"
    return replace(source, titles=titles, load=load, notes=(*source.notes, note))


def _part(whole: RawImageSet, images: Sequence[RawImage], first: bool) -> RawImageSet:
    """Some images of a part; what belongs to no image goes with the first."""
    count = sum(len(image.objects) for image in images)
    if not first:
        return RawImageSet(images, objects=count)
    count += len(whole.orphans)
    return replace(whole, images=images, objects=count)


def _folder(path: str) -> str:
    """The outermost folder of a path that is called like a split, "" without any."""
    return next(filter(split_role, path.replace("\\", "/").split("/")[:-1]), "")
