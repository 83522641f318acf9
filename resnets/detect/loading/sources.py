"""`open_detection`: open a stored data set of annotated images, and split it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.data import order
from resnets.data.dataset.image_hash import can_hash, file_keys
from resnets.data.dataset.image_identity import hash_names, hash_stems
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.source import FilePart, Rows, Source
from resnets.data.dataset.summary import DataSummary, SplitSummary, find_rarest_object
from resnets.data.errors import DataError
from resnets.data.sources.builtin import fetch_voc
from resnets.data.splits.check_results import KnownLeaks, load_known_leaks
from resnets.data.splits.image_record import ROLES, TEST, TRAIN, VAL, Changes, Fingerprint
from resnets.data.splits.image_versions import version_warnings
from resnets.data.splits.overlap import Overlap
from resnets.data.splits.roles import choose_roles
from resnets.detect.class_maps.folders import find_class_maps
from resnets.detect.class_maps.source import open_class_maps
from resnets.detect.data.types import DetectionSplit
from resnets.detect.formats.coco.find import explain_no_coco
from resnets.detect.formats.records import RawDataset, RawImageSet, Task, set_role
from resnets.detect.formats.registry import find_formats, open_first_format
from resnets.detect.formats.unread import SUPPORTED, describe_unsupported_files
from resnets.detect.formats.voc.dataset import open_voc
from resnets.detect.formats.voc.lists import find_voc
from resnets.detect.images.index import fingerprint_images
from resnets.detect.images.store import open_store
from resnets.detect.loading.choose_splits import (
    ChosenSets,
    add_val_halves,
    choose_sets,
    list_named_sets,
    log_sets,
    split_by_folders,
)
from resnets.detect.loading.split_opener import SplitOpener
from resnets.utils.errors import reading

log = logging.getLogger("resnets")
VOC_NAMES = ("voc2007", "voc2012", "voc0712")


@dataclass(frozen=True)
class DetectionSplits:
    """A data set divided into splits.

    `test()` opens the test images, which nothing else does; None if there are none. summary: how
    the data set was interpreted; each split has it, too. fingerprint, changes, overlaps,
    recognized, checked: as in `data.Splits`.
    """

    train: DetectionSplit
    val: DetectionSplit | None
    classes: tuple[str, ...]
    name: str
    test: Callable[[], DetectionSplit | None]
    summary: DataSummary
    fingerprint: Fingerprint | None = None
    changes: Changes | None = None
    overlaps: Sequence[Overlap] = ()
    recognized: bool = True
    checked: KnownLeaks | None = None


def open_detection(
    data: DataSpec,
    detect: DetectSpec | None = None,
    task: Task = "detect",
    known: Fingerprint | None = None,
    *,
    training: bool = False,
    other: bool = False,
    whole: bool = False,
) -> DetectionSplits:
    """Open the annotated images of `data.source`, by its own image sets if it has any.

    If there is a validation set but no test set, validation is the test set. Missing sets are held
    out of the training set: `data.val_fraction` and `data.test_fraction` of its images. Images in
    quarantine are excluded from all sets. `known`, `training`, `other` and `whole`: as in
    `open_data`. Raises DataError for missing, damaged or overlapping sets, and for invalid
    annotations unless `detect.skip_invalid`.
    """
    detect = detect or DetectSpec()
    source = add_val_halves(find_source(data.source, task, detect), list_named_sets(detect))
    with reading(data.source, DataError):
        sets = choose_sets(source.titles, detect)
    log_sets(source, sets)
    opener = SplitOpener(source, detect, task, Quarantine.of(data), data.workers)
    train_part = opener.load(sets.train)
    val = _load_val(opener, sets, train_part, detect, data.source)
    holds_out = (data.val_fraction and not val) or (data.test_fraction and not sets.test)
    needs_keys = bool(holds_out) or training or known is not None
    parts = _Parts(source, sets, opener, train_part, data, needs_keys=needs_keys)
    roles = choose_roles(
        parts.as_source(val), data, known, other=other, whole=whole, by_rank=_hold_out_by_rank
    )

    def open_split(role: int) -> DetectionSplit | None:
        share = roles.share(role)
        if share is None:
            return None
        images = parts.by_title[share.part.title].images
        split = opener.split([images[row] for row in share.rows], roles.description(role))
        return replace(split, summary=summary)

    overlaps = roles.settle_overlap() if training else []
    rows = [
        [] if (share := roles.share(role)) is None else share.rows.tolist()
        for role in ((TRAIN, VAL) if sets.test else (TRAIN, VAL, TEST))
    ]
    summary = _summary(source, sets, train_part, val, rows, data, opener.notes)
    if training:
        if sets.test:
            parts.test_images()
        found = (*summary.warnings, *version_warnings(roles))
        summary = replace(summary, skipped=opener.skipped().parts(), warnings=found)
    groups = {ROLES[role]: count for role, count in roles.group_counts().items()}
    summary = replace(summary, grouped_by=data.group, groups=groups)
    train = open_split(TRAIN)
    if train is None:
        raise DataError(f"{data.source}: {sets.train or 'it'} has no good images to train on")
    return DetectionSplits(
        train,
        open_split(VAL),
        train.classes,
        source.name,
        lambda: open_split(TEST),
        summary,
        roles.fingerprint() if training else None,
        roles.changes() if known is not None and not roles.other else None,
        overlaps,
        recognized=not roles.other,
        checked=load_known_leaks(roles, lambda: fingerprint_images(source.store))
        if training
        else None,
    )


class _Parts:
    """The image sets that are the parts of a data set.

    by_title: image sets that have been read. needs_keys: compare images by their contents.
    """

    def __init__(
        self,
        source: RawDataset,
        sets: ChosenSets,
        opener: SplitOpener,
        train: RawImageSet,
        data: DataSpec,
        *,
        needs_keys: bool,
    ) -> None:
        self.source, self.sets, self.opener, self.train = source, sets, opener, train
        self.data, self.needs_keys = data, needs_keys
        self.by_title: dict[str, RawImageSet] = {}
        self._test: RawImageSet | None = None

    def test_images(self) -> RawImageSet:
        """Read the test set, once."""
        if self._test is None:
            self._test = self.opener.load(self.sets.test)
        return self._test

    def as_source(self, val: RawImageSet | None) -> Source:
        """Return the parts as those of a data set of images; the test set is read when opened."""
        return Source(
            self.source.name,
            self.source.classes,
            self._part(self.sets.train, self.train),
            self._part(self.sets.val, val) if val is not None else None,
            self._test_part if self.sets.test else None,
        )

    def _test_part(self) -> FilePart:
        image_set = self.test_images()
        if self.data.overlap == "refuse" and _overlap(self.train, image_set):
            raise DataError(
                f"{self.data.source}: {self.sets.test} shares images with {self.sets.train}; a test"
                " set must be of images that training never sees"
            )
        return self._part(self.sets.test, image_set)

    def _part(self, titles: str, image_set: RawImageSet) -> FilePart:
        """Return images with the keys of other data sets: paths in the store, and contents."""
        self.by_title[titles] = image_set
        paths = [str(image.path) for image in image_set.images]
        files, ids = self.source.store.take(paths), hash_names(paths)
        # A path is in the store once: where contents are not compared, paths tell equal images.
        content = file_keys(files) if self.needs_keys and can_hash(files) else ids
        labels = np.zeros(len(paths), np.int64)
        return FilePart(titles, files, labels, ids, content, hash_stems(paths))


def _load_val(
    opener: SplitOpener, sets: ChosenSets, train: RawImageSet, detect: DetectSpec, where: str
) -> RawImageSet | None:
    """Read the validation set; None if there is none, or if a share of trainval is held out.

    Raises ConfigError or DataError if it shares images with the training set.
    """
    if not sets.val:
        return None
    val = opener.load(sets.val)
    if not _overlap(train, val):
        return val
    if detect.val_set:
        raise ConfigError(f"detect.val_set: {sets.val} shares images with {sets.train}")
    if not all(set_role(title) == "trainval" for title in sets.train.split("+")):
        raise DataError(
            f"{where}: {sets.val} shares images with {sets.train}; a validation set must be of"
            " images that training never sees"
        )
    return None


def _summary(
    source: RawDataset,
    sets: ChosenSets,
    train: RawImageSet,
    val: RawImageSet | None,
    rows: Sequence[Sequence[int]],
    data: DataSpec,
    notes: Sequence[str],
) -> DataSummary:
    """Summarize the data set from its annotations alone."""
    rule = "rank" if data.split_rule == "rank" else "identity"
    held_by = f"image {rule}" if data.group is None else "group"
    origin = f"held out by {held_by}, seed {data.split_seed}"
    splits = [SplitSummary("train", len(rows[0]), sets.train)]
    if val is not None:
        splits.append(SplitSummary("val", len(val.images), sets.val))
    elif len(rows[1]):
        splits.append(SplitSummary("val", len(rows[1]), f"{data.val_fraction:.0%} {origin}"))
    if sets.test:
        splits.append(SplitSummary("test", None, sets.test))
    elif len(rows[2]):
        splits.append(SplitSummary("test", len(rows[2]), f"{data.test_fraction:.0%} {origin}"))
    counts = Counter(
        each.label for row in rows[0] for each in train.images[row].objects if each.label >= 0
    )
    return DataSummary(
        source.name,
        source.classes,
        splits,
        find_rarest_object(source.classes, counts),
        source.store.skipped.parts(),
        source.store.skipped.links,
        [*source.notes, *notes],
        "object",
    )


def open_set(
    data: DataSpec,
    detect: DetectSpec,
    task: Task,
    title: str,
    known: Fingerprint | None = None,
) -> DetectionSplit | None:
    """Open the image set `title` of `data.source`; None if there are no annotations for it.

    Images that a run trained on (`known`) are excluded, unless all images were; the description
    says so. If the set exists, raises DataError as `open_detection`.
    """
    try:
        source = add_val_halves(find_source(data.source, task, detect), [title])
    except DataError:
        if find_formats(open_store(data.source)):
            raise
        return None
    if title not in source.titles:
        return None
    opener = SplitOpener(source, detect, task, Quarantine.of(data), data.workers)
    images = list(opener.load(title).images)
    chosen, note = images, ""
    if known is not None:
        is_trained = known.was_trained_on(
            file_keys(source.store.take([str(each.path) for each in images]))
        )
        chosen = [each for each, seen in zip(images, is_trained, strict=True) if not seen]
        if len(chosen) < len(images):
            note = f" ({len(images) - len(chosen):,} excluded because they were trained on)"
        if not chosen:
            chosen, note = images, " (all of which were trained on)"
    text = " ".join(filter(None, (source.name, title)))
    split = opener.split(chosen, f"{text}, {len(chosen):,} images{note}")
    skipped = source.store.skipped
    summary = DataSummary(
        source.name,
        source.classes,
        [SplitSummary("images", len(split), title)],
        None,
        skipped.parts(),
        skipped.links,
        [*source.notes, *opener.notes],
    )
    return replace(split, summary=summary)


def find_source(where: str, task: Task, detect: DetectSpec | None = None) -> RawDataset:
    """Open the data set at `where` for `task`; raises DataError without annotations of that kind.

    Of `detect`, the fields format, class_map and class_map_folder are read. VOC can be given by
    name (`VOC_NAMES`), and is downloaded if it is not in the cache.
    """
    with reading(where, DataError, "as annotations"):
        source = _find_source(where, task, detect or DetectSpec())

    def load(title: str) -> RawImageSet:
        with reading(where, DataError, "as annotations"):
            return source.load(title)

    return replace(source, load=load)


def _find_source(where: str, task: Task, detect: DetectSpec) -> RawDataset:
    store = open_store(str(fetch_voc(where)) if where in VOC_NAMES else where)
    name = store.name
    if task == "segment":
        if maps := find_class_maps(store, detect.class_map_folder):
            return open_class_maps(store, maps, name, detect)
        found = [each for each in find_formats(store, detect.format) if each.format.outlines]
        if found and not detect.class_map:
            note = f"label maps are drawn from the segmentations of {found[0].format.name}"
            source = open_first_format(store, found, name, True)
            return replace(source, notes=(note, *source.notes))
        raise DataError(
            f"{where}: no label maps (class maps); expected images/ beside masks/ (or labels/,"
            " annotations/), SegmentationClass/ as VOC has it, or semantic_<set>/: PNGs of one"
            " class a pixel; detect.class_map_folder names a folder with another name"
        )
    if where in VOC_NAMES:
        return open_voc(store, find_voc(store), name, all_classes=True)
    if found := find_formats(store, detect.format):
        if task == "instances" and not found[0].format.outlines:
            raise DataError(
                explain_no_coco(store)
                or f"{where}: {found[0].format.name} has no segmentations of objects; they come as"
                " COCO or labelme JSON, CVAT XML or YOLO text"
            )
        return split_by_folders(open_first_format(store, found, name, task == "instances"))
    if detect.format:
        raise DataError(f"{where}: no annotations of the form detect.format={detect.format}")
    if store.find_files("", ".xml"):
        raise DataError(f"{where}: its image lists name none of its XML files; correct the lists")
    if why := explain_no_coco(store):
        raise DataError(why)
    raise DataError(f"{where}: no annotations; {SUPPORTED}{describe_unsupported_files(store)}")


def _hold_out_by_rank(
    labels: Rows, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Rows, Rows, Rows]:
    """Hold out by the rule of earlier versions; see `image_identity.hold_out_by_rank`."""
    count = len(labels)
    random_keys = order.random_bits(seed, 0, np.arange(count), order.STREAM_SPLIT)
    rows = np.argsort(random_keys, kind="stable")
    tests = min(count - 1, round(count * test_fraction))
    vals = min(count - 1 - tests, round(count * val_fraction))
    test, val, train = np.split(rows, [tests, tests + vals])
    return np.sort(train), np.sort(val), np.sort(test)


def _overlap(image_set: RawImageSet, others: RawImageSet) -> bool:
    paths = {image.path for image in image_set.images}
    return any(image.path in paths for image in others.images)
