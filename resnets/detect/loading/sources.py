"""Opening a stored set of annotated pictures: COCO JSON, VOC XML, or class maps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.data import order
from resnets.data.dataset.content_hash import affordable, file_keys
from resnets.data.dataset.identity import hash_names, hash_stems
from resnets.data.dataset.parts import FilePart, Rows, Source
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.dataset.summary import DataSummary, SplitSummary
from resnets.data.errors import DataError
from resnets.data.layout.split_names import Role, role_within, split_role
from resnets.data.sources.download import fetch_voc
from resnets.data.splits.check_record import KnownLeaks, known_to
from resnets.data.splits.fingerprint import TEST, TRAIN, VAL, Changes, Fingerprint
from resnets.data.splits.overlap import Overlap
from resnets.data.splits.roles import choose_roles
from resnets.data.splits.source_names import versions_drawn_apart
from resnets.detect.class_maps.drawn import SCANNED, drawn, scan_drawn, with_background
from resnets.detect.class_maps.source import evenly_spread, find_semantic, open_semantic, scan_maps
from resnets.detect.data.class_maps import UnknownValueError
from resnets.detect.data.folder_splits import split_by_folders
from resnets.detect.data.image_index import store_listing
from resnets.detect.data.records import RawPart, RawPicture, RawSource
from resnets.detect.data.store import open_store
from resnets.detect.data.types import ClassMap, DetectionSplit, Segmentation, Target
from resnets.detect.formats.coco import why_no_coco
from resnets.detect.formats.foreign import EXPECTED, foreign_annotations
from resnets.detect.formats.problems import check_part, look_at_images, refuse, same_but_case
from resnets.detect.formats.registry import offers, open_offer
from resnets.detect.formats.voc import find_voc, open_voc
from resnets.utils.reading import reading

log = logging.getLogger("resnets")
NAMES = ("voc2007", "voc2012", "voc0712")
Task = Literal["detect", "localise", "instances", "segment"]
BAD = (
    "`resnets data check` lists all and repairs them when told to,"
    " detect.skip_bad=true leaves them out"
)


@dataclass(frozen=True)
class DetectionSplits:
    """A set, split. `test()` opens the test images, and nothing else does; None without any.

    summary: what was understood of the set; each split has it too.
    fingerprint, changes, overlap, recognized, checked: as `data.Splits` has them.
    """

    train: DetectionSplit
    val: DetectionSplit | None
    classes: tuple[str, ...]
    name: str
    test: Callable[[], DetectionSplit | None]
    summary: DataSummary
    fingerprint: Fingerprint | None = None
    changes: Changes | None = None
    overlap: Overlap | None = None
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
    """Open the annotated images of `data.source`, by its own image sets where it has them.

    With a validation but no test set, validation is the test set. What is missing is held out of
    the training set: `data.val_fraction` and `data.test_fraction` of its images; those in
    quarantine are left out everywhere. `known`, `training`, `other` and `whole`: as of `open_data`.
    DataError says what is missing, damaged or overlaps, and names bad annotations unless
    `detect.skip_bad`.
    """
    detect = detect or DetectSpec()
    source = find_source(data.source, task, detect.class_map, detect.format)
    with reading(data.source, DataError):
        sets = choose_sets(source.titles, detect)
    _say_sets(source, sets)
    opener = _Opener(source, detect, task, Quarantine.of(data), data.workers)
    train_part = opener.part(sets.train)
    val = opener.part(sets.val) if sets.val else None
    if val is not None and _overlap(train_part, val):
        if detect.val_set:
            raise ConfigError(f"detect.val_set: {sets.val} shares images with {sets.train}")
        if not all(
            role_within(title.rpartition(":")[2]) == "trainval" for title in sets.train.split("+")
        ):
            raise DataError(
                f"{data.source}: {sets.val} shares images with {sets.train}; a validation set must"
                " be of images that training never sees"
            )
        val = None  # part of trainval: a share of it is held out instead
    records: dict[str, RawPart] = {}

    def part(titles: str, found: RawPart) -> FilePart:
        """The images as parts of any set are known: by their paths in the store, and contents."""
        records[titles] = found
        paths = [str(picture.path) for picture in found.pictures]
        files, ids = source.store.take(paths), hash_names(paths)
        # A path is in the store once: where contents are not compared, paths tell equal images.
        content = file_keys(files) if needs_keys and affordable(files) else ids
        labels = np.zeros(len(paths), np.int64)
        return FilePart(titles, files, labels, ids, content, hash_stems(paths))

    def test_part() -> FilePart:
        found = opener.part(sets.test)
        if data.overlap == "refuse" and _overlap(train_part, found):
            raise DataError(
                f"{data.source}: {sets.test} shares images with {sets.train}; a test set must"
                " be of images that training never sees"
            )
        return part(sets.test, found)

    held = (data.val_fraction and not val) or (data.test_fraction and not sets.test)
    needs_keys = bool(held) or training or known is not None
    stored = Source(
        source.name,
        source.classes,
        part(sets.train, train_part),
        part(sets.val, val) if val is not None else None,
        test_part if sets.test else None,
    )
    roles = choose_roles(stored, data, known, other=other, whole=whole, by_rank=_hold_out_by_rank)

    def opened(role: int) -> DetectionSplit | None:
        share = roles.share(role)
        if share is None:
            return None
        pictures = records[share.part.title].pictures
        split = opener.split([pictures[row] for row in share.rows], roles.description(role))
        return replace(split, summary=summary)

    overlap = roles.settle_overlap() if training else None
    rows = [
        [] if (share := roles.share(role)) is None else share.rows.tolist()
        for role in ((TRAIN, VAL) if sets.test else (TRAIN, VAL, TEST))
    ]
    summary = _summary(source, sets, train_part, val, rows, data, opener.notes)
    if training:
        summary = replace(summary, warnings=(*summary.warnings, *versions_drawn_apart(roles)))
    train = opened(TRAIN)
    if train is None:
        raise DataError(f"{data.source}: {sets.train or 'it'} has no good images to train on")
    return DetectionSplits(
        train,
        opened(VAL),
        train.classes,
        source.name,
        lambda: opened(TEST),
        summary,
        roles.fingerprint() if training else None,
        roles.changes() if known is not None and not roles.other else None,
        overlap,
        recognized=not roles.other,
        checked=known_to(roles, lambda: store_listing(source.store)) if training else None,
    )


def _summary(
    source: RawSource,
    sets: Sets,
    train: RawPart,
    val: RawPart | None,
    rows: Sequence[Sequence[int]],
    data: DataSpec,
    notes: Sequence[str],
) -> DataSummary:
    """What was understood, from the annotations alone."""
    means = "rank" if data.split_rule == "rank" else "identity"
    held = f"held out by image {means}, seed {data.split_seed}"
    splits = [SplitSummary("train", len(rows[0]), sets.train)]
    if val is not None:
        splits.append(SplitSummary("val", len(val.pictures), sets.val))
    elif len(rows[1]):
        splits.append(SplitSummary("val", len(rows[1]), f"{data.val_fraction:.0%} {held}"))
    if sets.test:
        splits.append(SplitSummary("test", None, sets.test))
    elif len(rows[2]):
        splits.append(SplitSummary("test", len(rows[2]), f"{data.test_fraction:.0%} {held}"))
    counts = Counter(
        each.label for row in rows[0] for each in train.pictures[row].objects if each.label >= 0
    )
    rarest = min(range(len(source.classes)), key=lambda label: counts[label], default=None)
    return DataSummary(
        source.name,
        source.classes,
        splits,
        None if rarest is None or not counts else (source.classes[rarest], counts[rarest]),
        source.store.left_out.parts(),
        source.store.left_out.links,
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
    """The image set `title` of `data.source` alone; None where it has no annotations of that name.

    Images that a run trained on (`known`) are left out, unless all of the set are: the description
    says either.
    DataError as `open_detection`, where there is a set of that name.
    """
    try:
        source = find_source(data.source, task, detect.class_map, detect.format)
    except DataError:
        if offers(open_store(data.source)):
            raise
        return None
    if title not in source.titles:
        return None
    opener = _Opener(source, detect, task, Quarantine.of(data), data.workers)
    pictures = list(opener.part(title).pictures)
    kept, note = pictures, ""
    if known is not None:
        trained = known.trained(file_keys(source.store.take([str(each.path) for each in pictures])))
        kept = [each for each, seen in zip(pictures, trained, strict=True) if not seen]
        if len(kept) < len(pictures):
            note = f" ({len(pictures) - len(kept):,} left out that were trained on)"
        if not kept:
            kept, note = pictures, " (all of which were trained on)"
    text = " ".join(filter(None, (source.name, title)))
    split = opener.split(kept, f"{text}, {len(kept):,} pictures{note}")
    left_out = source.store.left_out
    summary = DataSummary(
        source.name,
        source.classes,
        [SplitSummary("images", len(split), title)],
        None,
        left_out.parts(),
        left_out.links,
        [*source.notes, *opener.notes],
    )
    return replace(split, summary=summary)


def find_source(where: str, task: Task, class_map: str = "", annotations: str = "") -> RawSource:
    """The set at `where`, for `task`; DataError when it has no annotations of that kind.

    class_map: as `detect.class_map` codes class maps. annotations: `detect.format`.

    VOC is known by name (`NAMES`) too, and downloaded where it is not in the cache.
    """
    with reading(where, DataError, "as annotations"):
        source = _find_source(where, task, class_map, annotations)

    def load(title: str) -> RawPart:
        with reading(where, DataError, "as annotations"):
            return source.load(title)

    return replace(source, load=load)


def _find_source(where: str, task: Task, class_map: str, annotations: str) -> RawSource:
    store = open_store(str(fetch_voc(where)) if where in NAMES else where)
    name = store.name
    if task == "segment":
        if maps := find_semantic(store):
            return open_semantic(store, maps, name, class_map)
        found = [each for each in offers(store, annotations) if each.format.outlines]
        if found and not class_map:
            note = f"class maps are drawn from the outlines of {found[0].format.name}"
            source = open_offer(store, found, name, True)
            return replace(source, notes=(note, *source.notes))
        raise DataError(
            f"{where}: no class maps; expected images/ beside masks/ (or labels/, annotations/),"
            " SegmentationClass/ as VOC has it, or semantic_<set>/: PNGs of one class a pixel"
        )
    if where in NAMES:
        return open_voc(store, find_voc(store), name, all_classes=True)
    if found := offers(store, annotations):
        if task == "instances" and not found[0].format.outlines:
            raise DataError(
                why_no_coco(store)
                or f"{where}: {found[0].format.name} has no outlines of objects; they come as COCO"
                " or labelme JSON, CVAT XML or YOLO text"
            )
        return split_by_folders(open_offer(store, found, name, task == "instances"))
    if annotations:
        raise DataError(f"{where}: no annotations of the form detect.format={annotations}")
    if store.below("", ".xml"):
        raise DataError(f"{where}: its image lists name none of its XML files; correct the lists")
    if why := why_no_coco(store):
        raise DataError(why)
    raise DataError(f"{where}: no annotations; {EXPECTED}{foreign_annotations(store)}")


def _say_sets(source: RawSource, sets: Sets) -> None:
    """Log what was understood: the image sets of each role, and those of none."""
    for note in (*source.notes, *same_but_case(source.classes)):
        log.warning("%s: %s", source.name, note)
    used = {title for each in (sets.train, sets.val, sets.test) for title in each.split("+")}
    trainval = any(_role(title) == "trainval" for title in source.titles)
    unused = [title or "(no split)" for title in source.titles if title not in used]
    if unused and not trainval:
        log.warning("%s: image sets that are not used: %s", source.name, ", ".join(unused))


@dataclass(frozen=True)
class Sets:
    """Titles of the image sets of each role, joined by +; "" = none of its own."""

    train: str
    val: str
    test: str


def choose_sets(titles: Sequence[str], detect: DetectSpec) -> Sets:
    """The image sets that `detect` names, or the source's own of fitting names.

    Those of one name in several folders or years are joined. ConfigError: a set that is not there;
    DataError: none for training, or several for one role without a name in common.
    """
    named = {title: split_role(title.rpartition(":")[2]) for title in titles}
    within = {title: _role(title) for title in titles}

    def own(role: Role, path: str) -> str:
        if found := [title for title in titles if named[title] == role]:
            exact = [title for title in found if title.rpartition(":")[2].lower() == role]
            found = exact or found
        else:
            found = [title for title in titles if within[title] == role]
        if len({title.rpartition(":")[2] for title in found}) > 1:
            raise DataError(
                f"the image sets {', '.join(found)} may all be for {role}; name one, or several"
                f" joined by +, with --set {path}="
            )
        return "+".join(found)

    for path in ("train_set", "val_set", "test_set"):
        for name in filter(None, getattr(detect, path).split("+")):
            if name not in titles:
                known = ", ".join(sorted(titles)) or "one set without a name"
                raise ConfigError(f"detect.{path}: no image set {name}; there are {known}")
    train = (
        detect.train_set
        or own("train", "detect.train_set")
        or own("trainval", "detect.train_set")
        or (titles[0] if len(titles) == 1 else "")
    )
    if not train and "" not in titles:
        raise DataError(
            f"none of the image sets {', '.join(sorted(titles))} is for training; name one with"
            " --set detect.train_set=NAME"
        )
    val = detect.val_set or own("val", "detect.val_set")
    test = detect.test_set or own("test", "detect.test_set")
    taken = set(train.split("+"))
    val = "" if taken & set(val.split("+")) else val
    if not detect.test_set and taken & set(test.split("+")):
        test = ""  # there is one set only
    if val and not test and not detect.val_set:
        val, test = "", val
    return Sets(train, val, test)


def _role(title: str) -> Role | None:
    """The split that an image set is for, by its title ("VOC2007:train")."""
    return role_within(title.rpartition(":")[2])


class _Opener:
    """Turns parts of a source into checked splits."""

    def __init__(
        self,
        source: RawSource,
        detect: DetectSpec,
        task: Task,
        quarantine: Quarantine,
        workers: int = 0,
    ) -> None:
        self.source, self.detect, self.quarantine = source, detect, quarantine
        self.workers = workers
        self.task = task
        self.notes: list[str] = []  # what was understood of the parts opened so far
        self.drawn = task == "segment" and source.coding is None
        self.masks = task == "instances" or self.drawn

    def part(self, titles: str) -> RawPart:
        """The good pictures of the sets `titles`; DataError names a bad one unless told to skip."""
        pictures: list[RawPicture] = []
        for title in titles.split("+"):
            loaded = self._unlisted(self.source.load(title))
            loaded = look_at_images(loaded, self.source.store, self.workers)
            checked = check_part(
                loaded, self.source.classes, masks=self.masks, upright=self.detect.upright
            )
            for note in (*checked.warnings, *checked.notes):
                if note not in self.notes:
                    self.notes.append(note)
                    log.warning("%s: %s", self.source.name, note)
            if not self.detect.skip_bad:
                refuse(checked.problems, BAD)
            if checked.problems:
                kinds = Counter(problem.kind for problem in checked.problems)
                log.warning(
                    "%s %s: left out %d bad annotations or images (%s)",
                    self.source.name,
                    title,
                    len(checked.problems),
                    ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()),
                )
            pictures += checked.pictures
        if not pictures:
            raise DataError(f"{self.source.store.where}: {titles or 'it'} lists no good images")
        if self.task == "localise":
            pictures = self._of_one_class(pictures, titles)
        if self.source.coding is not None:
            pictures = self._with_known_values(pictures, titles)
        if self.drawn:
            self._say_shares(pictures, titles)
        return RawPart(pictures)

    def _of_one_class(self, pictures: list[RawPicture], titles: str) -> list[RawPicture]:
        """The images whose objects are all of one class: before shares are drawn, so that each has
        some."""
        kept = [each for each in pictures if len({one.label for one in each.objects}) == 1]
        title = " ".join(filter(None, (self.source.name, titles)))
        if not kept:
            raise DataError(f"{title}: no image with objects of one class only")
        if left_out := len(pictures) - len(kept):
            log.warning("%s: left out %d images without objects of one class", title, left_out)
        return kept

    def _with_known_values(self, pictures: list[RawPicture], titles: str) -> list[RawPicture]:
        """The images, after a look at their class maps; DataError where values are of no class."""
        where = self.source.store.where
        maps = [picture.class_map for picture in pictures if picture.class_map is not None]
        scan = scan_maps(self.source, maps)
        bad_maps = (
            (scan.unreadable, DataError),
            (scan.lossy, DataError),
            (scan.unknown, UnknownValueError),
        )
        for bad, error in bad_maps:
            if bad and not self.detect.skip_bad:
                first, *others = bad.values()
                more = f" ({len(others):,} more maps likewise)" if others else ""
                raise error(f"{first}{more}")
        if (wrong := scan.suspicious()) is not None:
            raise DataError(f"{where}: class maps: {wrong}")
        lines = [*scan.lines(), *scan.warnings()]
        self.notes += lines
        for line in lines:
            log.warning("%s: %s", " ".join(filter(None, (self.source.name, titles))), line)
        called, bad = self.source.store.called, scan.unknown | scan.unreadable | scan.lossy
        kept = [each for each in pictures if called(str(each.class_map)) not in bad]
        if not kept:
            raise DataError(f"{where}: no good class maps; {next(iter(bad.values()))}")
        return kept

    def _say_shares(self, pictures: Sequence[RawPicture], titles: str) -> None:
        """What share of the pixels each class has in maps drawn from outlines."""
        classes, background = with_background(self.source.classes)
        shift = len(classes) - len(self.source.classes)
        targets = (
            drawn(to_target(pictures[row], masks=True), background, shift)
            for row in evenly_spread(len(pictures), SCANNED)
        )
        maps = [each.semantic for each in targets if each.semantic is not None]
        lines = scan_drawn(maps, classes, len(pictures)).lines()
        self.notes += lines
        for line in lines:
            log.warning("%s: %s", " ".join(filter(None, (self.source.name, titles))), line)

    def _unlisted(self, part: RawPart) -> RawPart:
        """The part without pictures that are in quarantine."""
        known = [picture for picture in part.pictures if picture.path is not None]
        files = self.source.store.take([str(picture.path) for picture in known])
        kept = set(self.quarantine.keep(files, np.arange(len(known))).tolist())
        out = {id(picture) for row, picture in enumerate(known) if row not in kept}
        pictures = [picture for picture in part.pictures if id(picture) not in out]
        return replace(part, pictures=pictures)

    def split(self, pictures: Sequence[RawPicture], description: str) -> DetectionSplit:
        """The pictures as a split."""
        paths = [picture.path for picture in pictures if picture.path is not None]
        maps = [picture.class_map for picture in pictures if picture.class_map is not None]
        map_files = self.source.store.take(maps) if maps else None
        coding = self.source.coding
        classes, ids = self.source.classes, self.source.stated_ids or self.source.category_ids
        background = 0
        if self.drawn:
            classes, background = with_background(classes)
            ids = (*range(len(classes)),) if len(classes) > len(ids) else ids
        targets = []
        for row, picture in enumerate(pictures):
            target = to_target(picture, masks=self.masks)
            if map_files is not None and coding is not None:
                target = replace(target, semantic=ClassMap(map_files, row, coding))
            if self.drawn:
                target = drawn(target, background, len(classes) - len(self.source.classes))
            targets.append(target)
        return DetectionSplit(
            files=self.source.store.take(paths),
            targets=targets,
            classes=classes,
            description=description,
            category_ids=ids,
        )


def to_target(picture: RawPicture, *, masks: bool) -> Target:
    """What is known of a checked picture."""
    objects = picture.objects
    boxes = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides[:, 0] * sides[:, 1]
    stated = [each.area for each in objects]
    outlines: list[Segmentation] = [
        each.segmentation for each in objects if each.segmentation is not None
    ]
    return Target(
        boxes=boxes,
        labels=np.array([each.label for each in objects], np.int64),
        crowd=np.array([each.crowd for each in objects], np.bool_),
        difficult=np.array([each.difficult for each in objects], np.bool_),
        areas=np.array(
            [own if given is None else given for given, own in zip(stated, areas, strict=True)],
            np.float32,
        ),
        masks=tuple(outlines) if masks else None,
        semantic=None,
        image_id=picture.image_id if picture.stated_id is None else picture.stated_id,
        width=picture.width,
        height=picture.height,
    )


def _hold_out_by_rank(
    labels: Rows, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Rows, Rows, Rows]:
    """The rule of earlier versions; see `identity.hold_out_by_rank`."""
    count = len(labels)
    luck = order.random_bits(seed, 0, np.arange(count), order.STREAM_SPLIT)
    rows = np.argsort(luck, kind="stable")
    tests = min(count - 1, round(count * test_fraction))
    vals = min(count - 1 - tests, round(count * val_fraction))
    test, val, train = np.split(rows, [tests, tests + vals])
    return np.sort(train), np.sort(val), np.sort(test)


def _overlap(one: RawPart, other: RawPart) -> bool:
    paths = {picture.path for picture in one.pictures}
    return any(picture.path in paths for picture in other.pictures)
