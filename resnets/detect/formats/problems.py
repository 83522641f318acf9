"""What is wrong with annotations, told from them and from the headers of their images."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from resnets.data.errors import DataError
from resnets.detect.data.masks import MaskError, check_segmentation
from resnets.detect.data.values import Box
from resnets.detect.formats.records import ID_TWICE, Flaw, Problem, RawObject, RawPart, RawPicture
from resnets.detect.formats.set_checks import (
    FORM,
    extent_warnings,
    form_problems,
    mark_form,
    outline_warnings,
)
from resnets.detect.images.sizes import Frame, StoredSize, read_sizes, stated_frame
from resnets.detect.images.store import Store

# Boxes may pass the picture's edge by this many pixels: sources round, or count from 1.
TOLERANCE = 1.0
NO_OUTLINE = "no outline"
CROWD = "all crowd"
LARGEST = 65_535  # px, the longest side that a JPEG can have


@dataclass(frozen=True)
class Checked:
    """A part's good images and objects, what was wrong with the others, and what to know of it.

    warnings: what may be wrong with all of it; notes: what was understood.
    """

    pictures: Sequence[RawPicture]
    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def look_at_images(part: RawPart, store: Store, workers: int = 0) -> RawPart:
    """The part with the sizes that the headers of its image files state (`with_sizes`)."""
    paths = [picture.path for picture in part.pictures if picture.path is not None]
    return with_sizes(part, store, read_sizes(store, paths, workers))


def with_sizes(part: RawPart, store: Store, sizes: Mapping[str, StoredSize | str]) -> RawPart:
    """The part with `sizes` of its images by path, or why they cannot be read.

    An image whose annotations state no size gets that of its file.
    """
    pictures = []
    unstated = 0
    for picture in part.pictures:
        if picture.path is None:
            pictures.append(picture)
            continue
        found, file = sizes[picture.path], store.called(picture.path)
        if isinstance(found, str):
            pictures.append(replace(picture, unreadable=found, file=file))
            continue
        picture = replace(picture, stored=found, file=file)
        if picture.width == picture.height == 0:
            unstated += 1
            width, height = found.upright
            picture = replace(picture, width=width, height=height, sized=False)
        pictures.append(picture)
    said = f"{unstated:,} images without a size in their annotations; taken from the files"
    return replace(part, pictures=pictures, notes=(*part.notes, *([said] if unstated else ())))


def check_part(
    part: RawPart,
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
    pictures, problems = [], [*part.problems, *part.orphans]
    frame = frame_of(part) or ("upright" if upright else None)
    part = mark_form(mark_shares(part))
    problems += [*form_problems(part.pictures), *_all_crowd(part.pictures)]
    for picture in part.pictures:
        found = list(picture_problems(picture, frame))
        problems += found
        if found:
            continue
        kept = []
        unknown = False
        for each in picture.objects:
            wrong = list(object_problems(each, picture, classes, masks))
            problems += [problem for problem in wrong if problem.kind != FORM]  # said once above
            if all(problem.kind == ID_TWICE for problem in wrong):
                kept.append(clipped(each, picture))
            elif ignore_bad and all(problem.kind != "duplicate" for problem in wrong):
                ignored = _ignored(each, picture)
                unknown = unknown or ignored is None
                kept = kept if ignored is None else [ignored, *kept]  # known objects lie on top
        if unknown:
            continue
        if kept or not any(flaw.kind == FORM for each in picture.objects for flaw in each.flaws):
            pictures.append(replace(picture, objects=tuple(kept)))  # else not without objects
    warnings = [*extent_warnings(part.pictures), *outline_warnings(pictures)]
    return Checked(pictures, problems, part.notes, warnings)


def once_each(
    pictures: Sequence[RawPicture],
) -> tuple[list[RawPicture], int, list[Problem]]:
    """Each image once, the number of entries that repeat another, a problem for those that differ.

    Image sets that are joined share images where one is part of another ("train" and "trainval").
    """
    first: dict[str, RawPicture] = {}
    kept, repeated, problems = [], 0, []
    for picture in pictures:
        assert picture.path is not None
        other = first.setdefault(picture.path, picture)
        if other is picture:
            kept.append(picture)
        elif _stated(other) == _stated(picture):
            repeated += 1
        else:
            said = f"{other.where} annotates its image {picture.path} too, in another way"
            problems.append(Problem(picture.where, picture.called, "one image for two", said))
    return kept, repeated, problems


def _stated(picture: RawPicture) -> tuple[object, ...]:
    """What is annotated in an image, in no order."""
    objects = Counter((o.label, o.box, o.crowd, o.difficult) for o in picture.objects)
    return picture.class_map, frozenset(objects.items())


def _ignored(each: RawObject, picture: RawPicture) -> RawObject | None:
    """The object as a crowd that fills its box; None where it has no box in the image."""
    if not all(map(math.isfinite, each.box)):
        return None
    ignored = clipped(each, picture)
    left, top, right, bottom = ignored.box
    if right <= left or bottom <= top:
        return None
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    return replace(ignored, label=max(0, each.label), crowd=True, segmentation=outline)


def _all_crowd(pictures: Iterable[RawPicture]) -> list[Problem]:
    """A problem where every object is a crowd, of which nothing is learnt or measured."""
    objects = [(picture, each) for picture in pictures for each in picture.objects]
    if not objects or not all(each.crowd for _, each in objects):
        return []
    said = (
        f"all {len(objects):,} objects are crowds (iscrowd 1), of which nothing is learnt; write"
        " iscrowd 0 where each is one object"
    )
    return [Problem(objects[0][0].where, "", CROWD, said)]


def mark_shares(part: RawPart) -> RawPart:
    """The part, with a flaw for each object where all boxes lie within one pixel.

    They are shares of the sides then, as YOLO writes them, or in other units than pixels.
    """
    found = False
    for picture in part.pictures:
        for each in picture.objects:
            if max(each.box) > 1:
                return part
            found = found or all(map(math.isfinite, each.box))
    if not found:
        return part
    flaw = Flaw("no pixels", "all boxes lie within one pixel; write them in pixels, not in shares")
    pictures = [
        replace(
            picture,
            objects=tuple(replace(o, flaws=(*o.flaws, flaw)) for o in picture.objects),
        )
        for picture in part.pictures
    ]
    return replace(part, pictures=pictures)


def same_but_case(classes: Sequence[str]) -> list[str]:
    """A note for each group of classes whose names differ by case only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[name.casefold()].append(name)
    return [
        f"classes whose names differ by case only: {', '.join(names)}"
        for names in groups.values()
        if len(names) > 1
    ]


def frame_of(part: RawPart) -> Frame | None:
    """Which pixels the boxes of a part are for, where its images tell (`image_sizes`)."""
    return stated_frame(
        ((picture.width, picture.height), picture.stored)
        for picture in part.pictures
        if picture.stored is not None and picture.sized
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


def clipped(each: RawObject, picture: RawPicture) -> RawObject:
    """The object with its box cut at the picture's edge."""
    left, top, right, bottom = each.box
    box = (
        min(max(left, 0.0), picture.width),
        min(max(top, 0.0), picture.height),
        min(max(right, 0.0), picture.width),
        min(max(bottom, 0.0), picture.height),
    )
    return replace(each, box=box)


def picture_problems(picture: RawPicture, frame: Frame | None = None) -> Iterator[Problem]:
    """What is wrong with an image as a whole; `frame`: which pixels boxes of its set are for."""
    item = "" if picture.called in picture.where else picture.called
    if picture.path is None:
        lacking = picture.lacking or Flaw("missing image", "its image is missing")
        yield Problem(picture.where, item, lacking.kind, lacking.said)
        return
    width, height = picture.width, picture.height
    if picture.unreadable and width == height == 0:
        yield Problem(picture.file, "", "unreadable", picture.unreadable)
        return
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        said = f"gives its image as {width}x{height}, a size that none has"
        yield Problem(picture.where, item, "image size", said)
        return
    if picture.stored is not None:
        yield from _size_problems(picture, picture.stored, frame)


def _size_problems(
    picture: RawPicture, stored: StoredSize, frame: Frame | None
) -> Iterator[Problem]:
    upright, stated = stored.upright, (picture.width, picture.height)
    plain = stored.width, stored.height
    if stated != upright:
        turned = f", as it is stored before EXIF orientation {stored.orientation} turns it"
        said = f"is {upright[0]}x{upright[1]}, its annotations are for {stated[0]}x{stated[1]}" + (
            turned if stated == plain else ""
        )
        yield Problem(picture.file, "", "image size", said)
        return
    open_frame = upright == plain or not picture.sized
    annotated = picture.objects or picture.class_map
    if stored.orientation != 1 and open_frame and frame != "upright" and annotated:
        what = "class maps" if picture.class_map else "boxes"
        which = (
            f"its set's {what} are for images as stored"
            if frame
            else f"its size does not tell whether its {what} are for the image as stored or"
            f" upright; detect.apply_exif=true says upright; for {what} on the stored pixels remove"
            " the tag"
        )
        said = f"is turned by EXIF orientation {stored.orientation}; {which}"
        yield Problem(picture.file, "", "orientation", said)


def object_problems(
    each: RawObject, picture: RawPicture, classes: Sequence[str], masks: bool
) -> Iterator[Problem]:
    """What is wrong with an object of a good image."""
    item = f"{picture.called}, {each.item}" if picture.where.endswith(".json") else each.item

    def problem(kind: str, said: str) -> Problem:
        return Problem(picture.where, item, kind, said)

    for flaw in each.flaws:
        yield problem(flaw.kind, flaw.said)
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
    elif _beyond(each.box, picture) > TOLERANCE:
        size = f"{picture.width}x{picture.height}"
        yield problem("outside", f"its box {_shown(each.box)} passes the edge of {size}")
    elif min(right, picture.width) <= max(left, 0) or min(bottom, picture.height) <= max(top, 0):
        yield problem("no area", f"its box {_shown(each.box)} has no area inside the picture")
    if each.segmentation is None and masks:
        yield problem(NO_OUTLINE, "it has no outline")
    if each.segmentation is not None:
        try:
            check_segmentation(each.segmentation, picture.height, picture.width, TOLERANCE)
        except MaskError as error:
            yield problem("mask", f"its outline {error}")


def _beyond(box: Box, picture: RawPicture) -> float:
    """Pixels by which a box passes the picture's edge."""
    left, top, right, bottom = box
    return max(-left, -top, right - picture.width, bottom - picture.height)


def _shown(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
