"""The images of an annotated set, by image set, as `data.check.run` reads and compares them.

Only images that an image set lists count, each once: class maps are no images, and an image that
both train and trainval list is one. An image that a training and a test set list is a leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from resnets.config import DataSpec, DetectSpec
from resnets.data.check.held_out_parts import SHARES
from resnets.data.check.parts import Contents, Section
from resnets.data.dataset.image_hash import affordable, file_keys
from resnets.data.dataset.image_identity import hash_names
from resnets.data.dataset.quarantine import path_within, prefixes
from resnets.data.dataset.source import FilePart, Source
from resnets.data.dataset.summary import DataSummary, rarest_object
from resnets.data.errors import DataError
from resnets.data.finding_kinds import LEAK, UNLISTED, Finding
from resnets.data.splits.share import held_out_rows
from resnets.detect.check.run import with_all
from resnets.detect.formats.records import RawDataset, RawObject, Task, set_role
from resnets.detect.images.index import ImageIndex, fingerprint_images
from resnets.detect.images.store import Store, open_store

APART = ("test", "val", "train", "trainval")  # those kept apart come first


def annotated_contents(spec: DataSpec, task: Task, detect: DetectSpec | None = None) -> Contents:
    """The images of `spec.source`, which has annotations for `task`.

    Where those cannot be opened (`check_annotations` says why), all images that are no class maps.
    """
    try:
        return _by_set(spec, with_all(spec.source, task, detect))
    except DataError:
        store = open_store(spec.source)
        return Contents(spec.source, [_section(store, "", ImageIndex.of(store).images)], ())


def annotated_listing(where: str) -> str:
    """Fingerprint of all images of an annotated set, in whatever image set."""
    return fingerprint_images(open_store(where))


def _by_set(spec: DataSpec, source: RawDataset) -> Contents:
    images = {title: source.load(title).images for title in source.titles}
    listed = {
        title: sorted({each.path for each in found if each.path is not None})
        for title, found in images.items()
    }
    maps = {each.class_map for found in images.values() for each in found}
    parts = _parts(source.titles)
    place: dict[str, str] = {}
    shared: dict[str, tuple[str, str]] = {}
    for title in sorted(source.titles, key=lambda title: _rank(parts[title])):
        for path in listed[title]:
            first = place.setdefault(path, parts[title])
            if {first, parts[title]} in ({"test", "train"}, {"val", "train"}):
                shared[path] = parts[title], first
    titles = sorted(set(parts.values()), key=_rank)
    sections = [
        _section(source.store, title, [path for path, part in place.items() if part == title])
        for title in titles
    ]
    if len(sections) == 1 and titles[0] not in ("test", "val"):
        sections = _shares(source, spec, list(place))
    findings = [*_shared(source, spec, shared), *_unlisted(source, spec, place.keys() | maps)]
    contents = Contents(spec.source, [each for each in sections if len(each.files)], findings)
    of = {
        source.store.display_path(str(each.path)): each.objects
        for found in images.values()
        for each in found
    }
    return replace(contents, understood=_understood(contents, source, of))


def _understood(
    contents: Contents, source: RawDataset, objects: Mapping[str, Sequence[RawObject]]
) -> DataSummary:
    """What training says of the set, of all sections; `objects` by the name of their image."""
    training = [each for each in contents.sections if each.part not in ("test", "val", *SHARES[:2])]
    counts = Counter(
        each.label
        for section in training
        for row in range(len(section.files))
        for each in objects[section.files.name(row)]
        if each.label >= 0
    )
    left_out = source.store.left_out
    return replace(
        contents.summary,
        classes=source.classes,
        rarest=rarest_object(source.classes, counts),
        counted="object",
        left_out=left_out.parts(),
        links=left_out.links,
    )


def _parts(titles: Sequence[str]) -> dict[str, str]:
    """What each image set is to training: "train", "val", "test", else its own title."""
    roles = {title: set_role(title) for title in titles}
    own = "train" in roles.values()
    return {
        title: ("train" if role == "trainval" and not own else role) or title
        for title, role in roles.items()
    }


def _rank(part: str) -> tuple[int, str]:
    return (APART.index(part) if part in APART else len(APART)), part


def _section(store: Store, title: str, paths: Sequence[str]) -> Section:
    return Section(title, store.take(paths), np.full(len(paths), -1, np.int64), ())


def _shares(source: RawDataset, spec: DataSpec, paths: Sequence[str]) -> list[Section]:
    """The one image set of a source, divided as training divides it where no annotation is bad."""
    files, ids = source.store.take(paths), hash_names(paths)
    content = file_keys(files) if affordable(files) else ids
    part = FilePart("", files, np.zeros(len(paths), np.int64), ids, content)
    train, val, test = held_out_rows(Source(source.name, source.classes, part), spec)
    shares = zip(SHARES, (test, val, train), strict=True)
    return [
        _section(source.store, title, [paths[row] for row in rows.tolist()])
        for title, rows in shares
    ]


def _shared(
    source: RawDataset, spec: DataSpec, shared: dict[str, tuple[str, str]]
) -> Iterator[Finding]:
    for path, (part, kept) in sorted(shared.items()):
        name = _within(source, spec, path)
        yield Finding(LEAK, name, f"listed in {kept} and in {part}", part, "", name, kept)


def _unlisted(source: RawDataset, spec: DataSpec, listed: Set[str | None]) -> Iterator[Finding]:
    """Images that no image set lists and that are no class maps, all in one finding."""
    others = [path for path in ImageIndex.of(source.store).images if path not in listed]
    if others:
        more = f"and {len(others) - 1:,} more " if len(others) > 1 else ""
        name = _within(source, spec, others[0])
        yield Finding(UNLISTED, name, f"{more}in no image set", count=len(others))


def _within(source: RawDataset, spec: DataSpec, path: str) -> str:
    """What lists call an image of the set."""
    return path_within(source.store.display_path(path), prefixes(spec.source))
