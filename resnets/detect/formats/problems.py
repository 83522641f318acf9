"""Problems of annotations, found in them and in the headers of their images."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from resnets.data.errors import DataError
from resnets.detect.data.masks import MaskError, check_segmentation
from resnets.detect.data.values import Box
from resnets.detect.formats.records import ID_TWICE, Flaw, Problem, RawImage, RawImageSet, RawObject
from resnets.detect.formats.set_checks import (
    FORM,
    extent_warnings,
    form_problems,
    mark_form,
    outline_warnings,
)
from resnets.detect.images.sizes import Frame, StoredSize, read_sizes, stated_frame
from resnets.detect.images.store import Store

# Boxes may pass the image's edge by this many pixels: sources round, or count from 1.
TOLERANCE = 1.0
NUMBERED = re.compile(r"(.*?[^\W\d_])[-_ #]?\d{1,3}")
NO_OUTLINE = "no outline"
CROWD = "all crowd"
LARGEST = 65_535  # px, the longest side that a JPEG can have


@dataclass(frozen=True)
class Checked:
    """A part's good images and objects, what was wrong with the others, and what to know of it.

    warnings: what may be wrong with all of it; notes: what was understood.
    """

    images: Sequence[RawImage]
    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def look_at_images(part: RawImageSet, store: Store, workers: int = 0) -> RawImageSet:
    """The part with the sizes that the headers of its image files state (`with_sizes`)."""
    paths = [image.path for image in part.images if image.path is not None]
    return with_sizes(part, store, read_sizes(store, paths, workers))


def with_sizes(
    part: RawImageSet, store: Store, sizes: Mapping[str, StoredSize | str]
) -> RawImageSet:
    """The part with `sizes` of its images by path, or why they cannot be read.

    An image whose annotations state no size gets that of its file.
    """
    images = []
    unstated = 0
    for image in part.images:
        if image.path is None:
            images.append(image)
            continue
        found, file = sizes[image.path], store.called(image.path)
        if isinstance(found, str):
            images.append(replace(image, unreadable=found, file=file))
            continue
        image = replace(image, stored=found, file=file)
        if image.width == image.height == 0:
            unstated += 1
            width, height = found.upright
            image = replace(image, width=width, height=height, sized=False)
        images.append(image)
    message = f"{unstated:,} images without a size in their annotations; taken from the files"
    return replace(part, images=images, notes=(*part.notes, *([message] if unstated else ())))


def check_part(
    part: RawImageSet,
    classes: Sequence[str],
    *,
    masks: bool = False,
    upright: bool = False,
    ignore_bad: bool = False,
) -> Checked:
    """Leave out bad images and objects and say what is wrong with each.

    `masks`: every object needs an outline. `ignore_bad`: bad objects become crowds of their box, so
    that their pixels are no background; an image with one whose box is unknown is left out.
    `upright`: as `DetectSpec` has it. Sizes are held
    against those of the image files where `look_at_images` has read them.
    """
    images, problems = [], [*part.problems, *part.orphans]
    frame = frame_of(part) or ("upright" if upright else None)
    part = mark_form(mark_shares(part))
    problems += [*form_problems(part.images), *_all_crowd(part.images)]
    for image in part.images:
        found = list(image_problems(image, frame))
        problems += found
        if found:
            continue
        kept = []
        unknown = False
        for each in image.objects:
            wrong = list(object_problems(each, image, classes, masks))
            problems += [problem for problem in wrong if problem.kind != FORM]  # said once above
            if all(problem.kind == ID_TWICE for problem in wrong):
                kept.append(clipped(each, image))
            elif ignore_bad and all(problem.kind != "duplicate" for problem in wrong):
                ignored = _ignored(each, image)
                unknown = unknown or ignored is None
                kept = kept if ignored is None else [ignored, *kept]  # known objects lie on top
        if unknown:
            continue
        if kept or not any(flaw.kind == FORM for each in image.objects for flaw in each.flaws):
            images.append(replace(image, objects=tuple(kept)))  # else not without objects
    warnings = [*extent_warnings(part.images), *outline_warnings(images)]
    return Checked(images, problems, part.notes, warnings)


def once_each(
    images: Sequence[RawImage],
) -> tuple[list[RawImage], int, list[Problem]]:
    """Each image once, the number of entries that repeat another, a problem for those that differ.

    Image sets that are joined share images where one is part of another ("train" and "trainval").
    """
    first: dict[str, RawImage] = {}
    kept, repeated, problems = [], 0, []
    for image in images:
        assert image.path is not None
        other = first.setdefault(image.path, image)
        if other is image:
            kept.append(image)
        elif _stated(other) == _stated(image):
            repeated += 1
        else:
            message = f"{other.where} annotates its image {image.path} too, in another way"
            problems.append(Problem(image.where, image.called, "one image for two", message))
    return kept, repeated, problems


def _stated(image: RawImage) -> tuple[object, ...]:
    """What is annotated in an image, in no order."""
    objects = Counter((o.label, o.box, o.crowd, o.difficult) for o in image.objects)
    return image.class_map, frozenset(objects.items())


def _ignored(each: RawObject, image: RawImage) -> RawObject | None:
    """The object as a crowd that fills its box; None where it has no box in the image."""
    if not all(map(math.isfinite, each.box)):
        return None
    ignored = clipped(each, image)
    left, top, right, bottom = ignored.box
    if right <= left or bottom <= top:
        return None
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    return replace(ignored, label=max(0, each.label), crowd=True, segmentation=outline)


def _all_crowd(images: Iterable[RawImage]) -> list[Problem]:
    """A problem where every object is a crowd, of which nothing is learnt or measured."""
    objects = [(image, each) for image in images for each in image.objects]
    if not objects or not all(each.crowd for _, each in objects):
        return []
    message = (
        f"all {len(objects):,} objects are crowds (iscrowd 1), of which nothing is learnt; write"
        " iscrowd 0 where each is one object"
    )
    return [Problem(objects[0][0].where, "", CROWD, message)]


def mark_shares(part: RawImageSet) -> RawImageSet:
    """The part, with a flaw for each object where all boxes lie within one pixel.

    They are shares of the sides then, as YOLO writes them, or in other units than pixels.
    """
    found = False
    for image in part.images:
        for each in image.objects:
            if max(each.box) > 1:
                return part
            found = found or all(map(math.isfinite, each.box))
    if not found:
        return part
    flaw = Flaw("no pixels", "all boxes lie within one pixel; write them in pixels, not in shares")
    images = [
        replace(
            image,
            objects=tuple(replace(o, flaws=(*o.flaws, flaw)) for o in image.objects),
        )
        for image in part.images
    ]
    return replace(part, images=images)


def name_warnings(classes: Sequence[str]) -> list[str]:
    """A warning for classes whose names differ by case or a plural's s only, and for names that
    seem to number the objects of a class."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[name.casefold()].append(name)
    for key in [key for key in groups if f"{key}s" in groups]:
        groups[f"{key}s"] += groups.pop(key)
    found = [
        "classes whose names differ by case or a plural's s only, each taken as one of its own:"
        f" {', '.join(sorted(names))}"
        for names in groups.values()
        if len(names) > 1
    ]
    series: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        if (number := NUMBERED.fullmatch(name)) is not None:
            series[number[1].casefold()].append(name)
    several = [names for key, names in series.items() if len(names) > 1]
    if several and (len(several) > 1 or several[0][0].rstrip("0123456789-_ #") in classes):
        shown = "; ".join(", ".join(names[:4]) for names in several[:3])
        found.append(
            f"{sum(map(len, several)):,} of {len(classes):,} classes seem to number the objects of"
            f" one class ({shown}), and each is a class here: give all objects of a class one name"
        )
    return found


def frame_of(part: RawImageSet) -> Frame | None:
    """Which pixels the boxes of a part are for, where its images tell (`image_sizes`)."""
    return stated_frame(
        ((image.width, image.height), image.stored)
        for image in part.images
        if image.stored is not None and image.sized
    )


def refuse(problems: Sequence[Problem], hint: str) -> None:
    """Raise DataError that names the first of `problems`, if any, and counts the others."""
    if not problems:
        return
    others = ""
    if len(problems) > 1:
        kinds = Counter(problem.kind for problem in problems)
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        others = f" (and {len(problems) - 1:,} more; in all {counted})"
    raise DataError(f"{problems[0]}{others}; {hint}")


def clipped(each: RawObject, image: RawImage) -> RawObject:
    """The object with its box cut at the image's edge."""
    left, top, right, bottom = each.box
    box = (
        min(max(left, 0.0), image.width),
        min(max(top, 0.0), image.height),
        min(max(right, 0.0), image.width),
        min(max(bottom, 0.0), image.height),
    )
    return replace(each, box=box)


def image_problems(image: RawImage, frame: Frame | None = None) -> Iterator[Problem]:
    """What is wrong with an image as a whole; `frame`: which pixels boxes of its set are for."""
    item = "" if image.called in image.where else image.called
    if image.path is None:
        lacking = image.lacking or Flaw("missing image", "its image is missing")
        yield Problem(image.where, item, lacking.kind, lacking.message)
        return
    width, height = image.width, image.height
    if image.unreadable and width == height == 0:
        yield Problem(image.file, "", "unreadable", image.unreadable)
        return
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        message = f"gives its image as {width}x{height}, a size that none has"
        yield Problem(image.where, item, "image size", message)
        return
    if image.stored is not None:
        yield from _size_problems(image, image.stored, frame)


def _size_problems(image: RawImage, stored: StoredSize, frame: Frame | None) -> Iterator[Problem]:
    upright, stated = stored.upright, (image.width, image.height)
    plain = stored.width, stored.height
    if stated != upright:
        turned = f", as it is stored before EXIF orientation {stored.orientation} turns it"
        message = (
            f"is {upright[0]}x{upright[1]}, its annotations are for {stated[0]}x{stated[1]}"
            + (turned if stated == plain else "")
        )
        yield Problem(image.file, "", "image size", message)
        return
    open_frame = upright == plain or not image.sized
    annotated = image.objects or image.class_map
    if stored.orientation != 1 and open_frame and frame != "upright" and annotated:
        what = "class maps" if image.class_map else "boxes"
        which = (
            f"its set's {what} are for images as stored"
            if frame
            else f"its size does not tell whether its {what} are for the image as stored or"
            f" upright; detect.apply_exif=true says upright; for {what} on the stored pixels remove"
            " the tag"
        )
        message = f"is turned by EXIF orientation {stored.orientation}; {which}"
        yield Problem(image.file, "", "orientation", message)


def object_problems(
    each: RawObject, image: RawImage, classes: Sequence[str], masks: bool
) -> Iterator[Problem]:
    """What is wrong with an object of a good image."""
    item = f"{image.called}, {each.item}" if image.where.endswith(".json") else each.item

    def problem(kind: str, message: str) -> Problem:
        return Problem(image.where, item, kind, message)

    for flaw in each.flaws:
        yield problem(flaw.kind, flaw.message)
        if flaw.kind == FORM:
            return
    if each.label < 0:
        yield problem("category", f"category {each.category} is none of the {len(classes)} known")
    if any(flaw.kind == "no number" for flaw in each.flaws):
        return
    if not all(map(math.isfinite, each.box)):
        yield problem("no number", f"its box {_shown(each.box)} is not four finite numbers")
        return
    left, top, right, bottom = each.box
    if right <= left or bottom <= top:
        yield problem("no area", f"its box {_shown(each.box)} has no area")
    elif _beyond(each.box, image) > TOLERANCE:
        size = f"{image.width}x{image.height}"
        yield problem("outside", f"its box {_shown(each.box)} passes the edge of {size}")
    elif min(right, image.width) <= max(left, 0) or min(bottom, image.height) <= max(top, 0):
        yield problem("no area", f"its box {_shown(each.box)} has no area inside the image")
    if each.segmentation is None and masks:
        yield problem(NO_OUTLINE, "it has no outline")
    if each.segmentation is not None:
        try:
            check_segmentation(each.segmentation, image.height, image.width, TOLERANCE)
        except MaskError as error:
            yield problem("mask", f"its outline {error}")


def _beyond(box: Box, image: RawImage) -> float:
    """Pixels by which a box passes the image's edge."""
    left, top, right, bottom = box
    return max(-left, -top, right - image.width, bottom - image.height)


def _shown(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
