"""Open the images of an annotated data set, by image set, for `data.check.run`.

Only images in an image set count, each once: class maps are not images, and an image that is in
both train and trainval is one. An image in a training and a test set is a leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from resnets.config import DataSpec, DetectSpec
from resnets.data.check.images_by_split import SHARES, Contents, Section
from resnets.data.dataset.image_hash import can_hash, file_keys
from resnets.data.dataset.image_identity import hash_names
from resnets.data.dataset.source import FilePart, Source
from resnets.data.dataset.summary import DataSummary, find_rarest_object
from resnets.data.errors import DataError
from resnets.data.finding_kinds import LEAK, UNLISTED, Finding
from resnets.data.splits.share import held_out_rows
from resnets.detect.check.run import open_full_set
from resnets.detect.formats.records import RawDataset, RawObject, Task, set_role
from resnets.detect.images.index import ImageIndex, fingerprint_images
from resnets.detect.images.store import Store, open_store
from resnets.utils.files.source_paths import path_within, prefixes

SET_ORDER = ("test", "val", "train", "trainval")  # held-out sets first


def annotated_contents(spec: DataSpec, task: Task, detect: DetectSpec | None = None) -> Contents:
    """Return the images of `spec.source`, which has annotations for `task`.

    If those cannot be opened (`check_annotations` reports why), all images that are not class maps.
    """
    try:
        return _build_contents(spec, open_full_set(spec.source, task, detect))
    except DataError:
        store = open_store(spec.source)
        return Contents(spec.source, [_make_section(store, "", ImageIndex.of(store).images)], ())


def annotated_listing(where: str) -> str:
    """Return the fingerprint of all images of an annotated set, in any image set."""
    return fingerprint_images(open_store(where))


def _build_contents(spec: DataSpec, source: RawDataset) -> Contents:
    images = {title: source.load(title).images for title in source.titles}
    paths_of = {
        title: sorted({each.path for each in found if each.path is not None})
        for title, found in images.items()
    }
    class_maps = {each.class_map for found in images.values() for each in found}
    role_of_title = _assign_roles(source.titles)
    role_of_path: dict[str, str] = {}
    shared: dict[str, tuple[str, str]] = {}
    for title in sorted(source.titles, key=lambda title: _sort_key(role_of_title[title])):
        for path in paths_of[title]:
            first_role = role_of_path.setdefault(path, role_of_title[title])
            if {first_role, role_of_title[title]} in ({"test", "train"}, {"val", "train"}):
                shared[path] = role_of_title[title], first_role
    titles = sorted(set(role_of_title.values()), key=_sort_key)
    sections = [
        _make_section(
            source.store, title, [path for path, part in role_of_path.items() if part == title]
        )
        for title in titles
    ]
    if len(sections) == 1 and titles[0] not in ("test", "val"):
        sections = _hold_out(source, spec, list(role_of_path))
    findings = [
        *_find_shared(source, spec, shared),
        *_find_unlisted(source, spec, role_of_path.keys() | class_maps),
    ]
    contents = Contents(spec.source, [each for each in sections if len(each.files)], findings)
    objects_of = {
        source.store.display_path(str(each.path)): each.objects
        for found in images.values()
        for each in found
    }
    return replace(contents, trained_summary=_summarize(contents, source, objects_of))


def _summarize(
    contents: Contents, source: RawDataset, objects: Mapping[str, Sequence[RawObject]]
) -> DataSummary:
    """Summarize the set as training does, from all sections; `objects` by name of their image."""
    training = [each for each in contents.sections if each.part not in ("test", "val", *SHARES[:2])]
    counts = Counter(
        each.label
        for section in training
        for row in range(len(section.files))
        for each in objects[section.files.name(row)]
        if each.label >= 0
    )
    skipped = source.store.skipped
    return replace(
        contents.summary,
        classes=source.classes,
        rarest=find_rarest_object(source.classes, counts),
        counted="object",
        skipped=skipped.parts(),
        links=skipped.links,
    )


def _assign_roles(titles: Sequence[str]) -> dict[str, str]:
    """Return the role of each image set in training: "train", "val", "test", or its own title."""
    roles = {title: set_role(title) for title in titles}
    has_train = "train" in roles.values()
    return {
        title: ("train" if role == "trainval" and not has_train else role) or title
        for title, role in roles.items()
    }


def _sort_key(part: str) -> tuple[int, str]:
    return (SET_ORDER.index(part) if part in SET_ORDER else len(SET_ORDER)), part


def _make_section(store: Store, title: str, paths: Sequence[str]) -> Section:
    return Section(title, store.take(paths), np.full(len(paths), -1, np.int64), ())


def _hold_out(source: RawDataset, spec: DataSpec, paths: Sequence[str]) -> list[Section]:
    """Divide the only image set of a source as training does if no annotation is bad."""
    files, ids = source.store.take(paths), hash_names(paths)
    content = file_keys(files) if can_hash(files) else ids
    part = FilePart("", files, np.zeros(len(paths), np.int64), ids, content)
    train, val, test = held_out_rows(Source(source.name, source.classes, part), spec)
    shares = zip(SHARES, (test, val, train), strict=True)
    return [
        _make_section(source.store, title, [paths[row] for row in rows.tolist()])
        for title, rows in shares
    ]


def _find_shared(
    source: RawDataset, spec: DataSpec, shared: dict[str, tuple[str, str]]
) -> Iterator[Finding]:
    for path, (role, other_role) in sorted(shared.items()):
        name = _path_in_set(source, spec, path)
        yield Finding(
            LEAK, name, f"listed in {other_role} and in {role}", role, "", name, other_role
        )


def _find_unlisted(source: RawDataset, spec: DataSpec, known: Set[str | None]) -> Iterator[Finding]:
    """Yield one finding for images that are in no image set and are not class maps."""
    unlisted = [path for path in ImageIndex.of(source.store).images if path not in known]
    if unlisted:
        more = f"and {len(unlisted) - 1:,} more " if len(unlisted) > 1 else ""
        name = _path_in_set(source, spec, unlisted[0])
        yield Finding(UNLISTED, name, f"{more}in no image set", count=len(unlisted))


def _path_in_set(source: RawDataset, spec: DataSpec, path: str) -> str:
    """Return the path of an image as written in lists."""
    return path_within(source.store.display_path(path), prefixes(spec.source))
