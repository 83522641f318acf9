"""Turns the image sets of a source into checked splits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from resnets.config import DetectSpec
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.errors import DataError
from resnets.detect.class_maps.drawn import SCANNED, drawn, scan_drawn, with_background
from resnets.detect.class_maps.source import evenly_spread, scan_maps
from resnets.detect.data.class_maps import UnknownValueError
from resnets.detect.data.types import ClassMap, DetectionSplit, Segmentation, Target
from resnets.detect.formats.problems import check_part, look_at_images, once_each, refuse
from resnets.detect.formats.records import RawPart, RawPicture, RawSource, Task

log = logging.getLogger("resnets")
BAD = (
    "`resnets data check` lists all and repairs them when told to,"
    " detect.skip_invalid=true leaves them out"
)


class SplitOpener:
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
        for title in dict.fromkeys(titles.split("+")):
            loaded = self._unlisted(self.source.load(title))
            loaded = look_at_images(loaded, self.source.store, self.workers)
            checked = check_part(
                loaded,
                self.source.classes,
                masks=self.masks,
                upright=self.detect.apply_exif,
                ignore_bad=self.drawn,
            )
            for note in (*checked.warnings, *checked.notes):
                self._note(note)
            if not self.detect.skip_invalid:
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
            if self.drawn and checked.problems:
                self._note(
                    f"{title or 'all'}: pixels in the boxes of objects that are left out are"
                    " ignored; an image with one whose box is unknown is left out"
                )
        pictures, repeated, problems = once_each(pictures)
        if not self.detect.skip_invalid:
            refuse(problems, BAD)
        if repeated:
            self._note(f"{titles}: {repeated:,} entries listed more than once; each is read once")
        if not pictures:
            raise DataError(f"{self.source.store.where}: {titles or 'it'} lists no good images")
        if self.task == "localize":
            pictures = self._of_one_class(pictures, titles)
        difficult = sum(each.difficult for picture in pictures for each in picture.objects)
        if difficult and self.task != "segment" and not self.detect.keep_difficult:
            self._note(
                f"{titles or 'all'}: {difficult:,} objects are marked difficult: neither trained on"
                " nor measured (detect.keep_difficult=true trains on them)"
            )
        if self.source.coding is not None:
            pictures = self._with_known_values(pictures, titles)
        if self.drawn:
            self._say_shares(pictures, titles)
        return RawPart(pictures)

    def _note(self, note: str) -> None:
        """Keep and log what was understood, once."""
        if note not in self.notes:
            self.notes.append(note)
            log.warning("%s: %s", self.source.name, note)

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
            if bad and not self.detect.skip_invalid:
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
            description=", ".join(filter(None, (description, self.source.caveat))),
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
