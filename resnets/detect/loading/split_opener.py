"""`SplitOpener`: check the image sets of a source, and convert them to splits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from resnets.config import DetectSpec
from resnets.data.dataset.probe_split import unread_frames_warning
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles
from resnets.data.order import evenly_spaced
from resnets.detect.class_maps.instances_to_class_maps import (
    NUM_SCANNED,
    add_background,
    draw_class_map,
    scan_outline_maps,
)
from resnets.detect.class_maps.source import scan_maps
from resnets.detect.data.class_maps import ClassMap, UnknownValueError
from resnets.detect.data.types import DetectionSplit, Segmentation, Target
from resnets.detect.data.values import Box
from resnets.detect.formats.problems import (
    check_image_set,
    drop_repeated_images,
    raise_first_problem,
    read_stored_sizes,
)
from resnets.detect.formats.records import RawDataset, RawImage, RawImageSet, Task
from resnets.detect.images.index import ImageIndex

log = logging.getLogger("resnets")
NOT_LISTED = "image in no image set that is read"
BAD_HINT = (
    "`resnets data check` lists all, and repairs them with --repair,"
    " detect.skip_invalid=true excludes them"
)


class SplitOpener:
    """Loads, checks and splits the image sets of a source."""

    def __init__(
        self,
        source: RawDataset,
        detect: DetectSpec,
        task: Task,
        quarantine: Quarantine,
        workers: int = 0,
    ) -> None:
        self.source, self.detect, self.quarantine = source, detect, quarantine
        self.workers = workers
        self.task = task
        self.notes: list[str] = []  # on the image sets loaded so far
        self.listed: set[str | None] = set()  # images and class maps of these sets
        self.drawn = task == "segment" and source.coding is None
        self.masks = task == "instances" or self.drawn

    def load(self, titles: str) -> RawImageSet:
        """Return the valid images of the sets `titles`.

        Raises DataError for an invalid image, unless `detect.skip_invalid`.
        """
        images: list[RawImage] = []
        for title in dict.fromkeys(titles.split("+")):
            loaded = self.source.load(title)
            self.listed |= {path for each in loaded.images for path in (each.path, each.class_map)}
            loaded = self._drop_quarantined(loaded)
            loaded = read_stored_sizes(loaded, self.source.store, self.workers)
            checked = check_image_set(
                loaded,
                self.source.classes,
                masks=self.masks,
                upright=self.detect.apply_exif,
                ignore_bad=self.drawn,
            )
            for note in (*checked.warnings, *checked.notes):
                self._note(note)
            if not self.detect.skip_invalid:
                raise_first_problem(checked.problems, BAD_HINT)
            if checked.problems:
                kinds = Counter(problem.kind for problem in checked.problems)
                log.warning(
                    "%s %s: excluded %d bad annotations or images (%s)",
                    self.source.name,
                    title,
                    len(checked.problems),
                    ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()),
                )
            images += checked.images
            if self.drawn and checked.problems:
                self._note(
                    f"{title or 'all'}: pixels in the boxes of objects that are excluded are"
                    " ignored; an image with one whose box is unknown is excluded"
                )
        images, num_repeated, problems = drop_repeated_images(images)
        if not self.detect.skip_invalid:
            raise_first_problem(problems, BAD_HINT)
        if num_repeated:
            self._note(
                f"{titles}: {num_repeated:,} entries listed more than once; each is read once"
            )
        if not images:
            raise DataError(f"{self.source.store.where}: {titles or 'it'} lists no good images")
        paths = [path for each in images for path in (each.path, each.class_map) if path]
        for warning in unread_frames_warning(self.source.store.take(paths), np.arange(len(paths))):
            self._note(f"{titles or 'all'}: {warning}")
        if self.task == "localize":
            images = self._keep_single_class(images, titles)
        difficult = sum(each.difficult for image in images for each in image.objects)
        if difficult and self.task != "segment" and not self.detect.keep_difficult:
            self._note(
                f"{titles or 'all'}: {difficult:,} objects are marked difficult: neither trained on"
                " nor measured (detect.keep_difficult=true trains on them)"
            )
        if self.task != "segment" and (note := _describe_equal_boxes(images)):
            self._note(f"{titles or 'all'}: {note}")
        if self.source.coding is not None:
            images = self._check_class_maps(images, titles)
        if self.drawn:
            self._log_class_fractions(images, titles)
        return RawImageSet(images)

    def skipped(self) -> SkippedFiles:
        """Count the files that were not read, and the images in no set loaded so far."""
        found = SkippedFiles()
        found.add_all(self.source.store.skipped)
        for path in ImageIndex.of(self.source.store).images:
            if path not in self.listed:
                found.add(NOT_LISTED, path)
        return found

    def _note(self, note: str) -> None:
        """Record and log a note once."""
        if note not in self.notes:
            self.notes.append(note)
            log.warning("%s: %s", self.source.name, note)

    def _keep_single_class(self, images: list[RawImage], titles: str) -> list[RawImage]:
        """Return the images whose objects all have the same class.

        This is done before images are held out, so that each split has some of them.
        """
        single = [each for each in images if len({one.label for one in each.objects}) == 1]
        title = " ".join(filter(None, (self.source.name, titles)))
        if not single:
            raise DataError(f"{title}: no image with objects of one class only")
        if excluded := len(images) - len(single):
            log.warning("%s: excluded %d images without objects of one class", title, excluded)
        return single

    def _check_class_maps(self, images: list[RawImage], titles: str) -> list[RawImage]:
        """Return the images with valid class maps; raises DataError if values have no class."""
        where = self.source.store.where
        maps = [image.class_map for image in images if image.class_map is not None]
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
        if (message := scan.find_error()) is not None:
            raise DataError(f"{where}: class maps: {message}")
        lines = [*scan.lines(), *scan.warnings()]
        self.notes += lines
        for line in lines:
            log.warning("%s: %s", " ".join(filter(None, (self.source.name, titles))), line)
        display_path, bad = (
            self.source.store.display_path,
            scan.unknown | scan.unreadable | scan.lossy,
        )
        good = [each for each in images if display_path(str(each.class_map)) not in bad]
        if not good:
            raise DataError(f"{where}: no good class maps; {next(iter(bad.values()))}")
        return good

    def _log_class_fractions(self, images: Sequence[RawImage], titles: str) -> None:
        """Log the fraction of pixels of each class in maps drawn from outlines."""
        classes, background = add_background(self.source.classes)
        shift = len(classes) - len(self.source.classes)
        targets = (
            draw_class_map(to_target(images[row], masks=True), background, shift)
            for row in evenly_spaced(len(images), NUM_SCANNED).tolist()
        )
        maps = [each.semantic for each in targets if each.semantic is not None]
        lines = scan_outline_maps(maps, classes, len(images)).lines()
        self.notes += lines
        for line in lines:
            log.warning("%s: %s", " ".join(filter(None, (self.source.name, titles))), line)

    def _drop_quarantined(self, image_set: RawImageSet) -> RawImageSet:
        """Return the image set without images that are in quarantine."""
        with_file = [image for image in image_set.images if image.path is not None]
        files = self.source.store.take([str(image.path) for image in with_file])
        kept_rows = set(self.quarantine.filter_rows(files, np.arange(len(with_file))).tolist())
        dropped = {id(image) for row, image in enumerate(with_file) if row not in kept_rows}
        images = [image for image in image_set.images if id(image) not in dropped]
        return replace(image_set, images=images)

    def split(self, images: Sequence[RawImage], description: str) -> DetectionSplit:
        """Return the images as a split."""
        paths = [image.path for image in images if image.path is not None]
        map_paths = [image.class_map for image in images if image.class_map is not None]
        map_files = self.source.store.take(map_paths) if map_paths else None
        coding = self.source.coding
        classes, ids = self.source.classes, self.source.original_ids or self.source.category_ids
        background = 0
        if self.drawn:
            classes, background = add_background(classes)
            ids = (*range(len(classes)),) if len(classes) > len(ids) else ids
        targets = []
        for row, image in enumerate(images):
            target = to_target(image, masks=self.masks)
            if map_files is not None and coding is not None:
                target = replace(target, semantic=ClassMap(map_files, row, coding))
            if self.drawn:
                target = draw_class_map(target, background, len(classes) - len(self.source.classes))
            targets.append(target)
        return DetectionSplit(
            files=self.source.store.take(paths),
            targets=targets,
            classes=classes,
            description=", ".join(filter(None, (description, self.source.caveat))),
            category_ids=ids,
        )


def _describe_equal_boxes(images: Sequence[RawImage]) -> str:
    """Describe objects that have the box of another one of their image; "" without any."""
    same, other, first = 0, 0, ""
    for image in images:
        labels: dict[Box, set[int]] = {}
        for each in image.objects:
            known = labels.setdefault(each.box, set())
            same += each.label in known
            other += bool(known) and each.label not in known
            first = first or (f"{image.name}, {each.item}" if known else "")
            known.add(each.label)
    if not first:
        return ""
    return (
        f"objects with exactly the box of another one: {same:,} of its class, {other:,} of other"
        f" classes, the first is {first}; each is read"
    )


def to_target(image: RawImage, *, masks: bool) -> Target:
    """Return the annotations of a checked image as a target."""
    objects = image.objects
    boxes = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides[:, 0] * sides[:, 1]
    stated_areas = [each.area for each in objects]
    outlines: list[Segmentation] = [
        each.segmentation for each in objects if each.segmentation is not None
    ]
    return Target(
        boxes=boxes,
        labels=np.array([each.label for each in objects], np.int64),
        crowd=np.array([each.crowd for each in objects], np.bool_),
        difficult=np.array([each.difficult for each in objects], np.bool_),
        areas=np.array(
            [
                area if given is None else given
                for given, area in zip(stated_areas, areas, strict=True)
            ],
            np.float32,
        ),
        masks=tuple(outlines) if masks else None,
        semantic=None,
        image_id=image.image_id if image.original_id is None else image.original_id,
        width=image.width,
        height=image.height,
    )
