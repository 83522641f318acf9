"""Check annotations, by themselves and against the headers of their images."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from resnets.data.errors import DataError
from resnets.data.layout.class_spelling import SPELLING, quote_names, spelling_key
from resnets.detect.data.masks import MaskError, check_segmentation
from resnets.detect.data.values import Box
from resnets.detect.formats.box_format_check import (
    FORM,
    find_extent_warnings,
    find_outline_warnings,
    flag_wrong_box_form,
    list_form_problems,
)
from resnets.detect.formats.records import ID_TWICE, Flaw, Problem, RawImage, RawImageSet, RawObject
from resnets.detect.images.sizes import Frame, StoredSize, infer_frame, read_sizes
from resnets.detect.images.store import Store

# px by which boxes may pass the image's edge: sources round, or count from 1.
TOLERANCE = 1.0
NUMBERED_NAME = re.compile(r"(.*?[^\W\d_])[-_ #]?\d{1,3}")
NO_OUTLINE = "no outline"
ALL_CROWD = "all crowd"
MAX_SIDE = 65_535  # px, the longest side that a JPEG can have


@dataclass(frozen=True)
class CheckedImageSet:
    """The valid images and objects of an image set, and the problems of the others.

    warnings: what may be wrong with the set as a whole. notes: how it was interpreted.
    """

    images: Sequence[RawImage]
    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def read_stored_sizes(image_set: RawImageSet, store: Store, workers: int = 0) -> RawImageSet:
    """Return the image set with the sizes in the headers of its files (`set_stored_sizes`)."""
    paths = [image.path for image in image_set.images if image.path is not None]
    return set_stored_sizes(image_set, store, read_sizes(store, paths, workers))


def set_stored_sizes(
    image_set: RawImageSet, store: Store, sizes: Mapping[str, StoredSize | str]
) -> RawImageSet:
    """Return the image set with `sizes` of its images by path, or why they cannot be read.

    An image whose annotations specify no size gets that of its file.
    """
    images = []
    num_unstated = 0
    for image in image_set.images:
        if image.path is None:
            images.append(image)
            continue
        stored, path = sizes[image.path], store.display_path(image.path)
        if isinstance(stored, str):
            images.append(replace(image, unreadable=stored, file=path))
            continue
        image = replace(image, stored=stored, file=path)
        if image.width == image.height == 0:
            num_unstated += 1
            width, height = stored.upright
            image = replace(image, width=width, height=height, has_size=False)
        images.append(image)
    message = f"{num_unstated:,} images without a size in their annotations; read from the files"
    return replace(
        image_set, images=images, notes=(*image_set.notes, *([message] if num_unstated else ()))
    )


def check_image_set(
    image_set: RawImageSet,
    classes: Sequence[str],
    *,
    masks: bool = False,
    upright: bool = False,
    ignore_bad: bool = False,
) -> CheckedImageSet:
    """Exclude invalid images and objects, and report the problem of each.

    masks: whether every object needs an outline. ignore_bad: invalid objects become crowds filling
    their box, so that their pixels are not background; an image with an unknown box is excluded.
    upright: see `DetectSpec.apply_exif`. Sizes are compared with those of the files if
    `read_stored_sizes` has read them.
    """
    images, problems = [], [*image_set.problems, *image_set.orphans]
    frame = infer_box_frame(image_set) or ("upright" if upright else None)
    image_set = flag_wrong_box_form(flag_normalized_boxes(image_set))
    problems += [*list_form_problems(image_set.images), *_find_all_crowd(image_set.images)]
    for image in image_set.images:
        image_problems = list(find_image_problems(image, frame))
        problems += image_problems
        if image_problems:
            continue
        objects = []
        lost_box = False
        for each in image.objects:
            object_problems = list(find_object_problems(each, image, classes, masks))
            # Those of kind FORM are reported once for the set, above.
            problems += [problem for problem in object_problems if problem.kind != FORM]
            if all(problem.kind == ID_TWICE for problem in object_problems):
                objects.append(replace(each, box=clip_box(each.box, image)))
            elif ignore_bad and all(problem.kind != "duplicate" for problem in object_problems):
                ignored = _to_crowd(each, image)
                lost_box = lost_box or ignored is None
                if ignored is not None:
                    objects.insert(0, ignored)  # below known objects
        if lost_box:
            continue
        if objects or not any(flaw.kind == FORM for each in image.objects for flaw in each.flaws):
            images.append(replace(image, objects=tuple(objects)))  # others are not empty images
    warnings = [*find_extent_warnings(image_set.images), *find_outline_warnings(images)]
    return CheckedImageSet(images, problems, image_set.notes, warnings)


def drop_repeated_images(
    images: Sequence[RawImage],
) -> tuple[list[RawImage], int, list[Problem]]:
    """Return each image once, the number of repeated entries, and problems of contradicting ones.

    Joined image sets share images if one is part of another ("train" and "trainval").
    """
    first: dict[str, RawImage] = {}
    unique, num_repeated, problems = [], 0, []
    for image in images:
        assert image.path is not None
        other = first.setdefault(image.path, image)
        if other is image:
            unique.append(image)
        elif _annotation_key(other) == _annotation_key(image):
            num_repeated += 1
        else:
            message = f"{other.where} annotates its image {image.path} too, in another way"
            problems.append(Problem(image.where, image.name, "one image for two", message))
    return unique, num_repeated, problems


def _annotation_key(image: RawImage) -> tuple[object, ...]:
    """The annotations of an image, independent of their order."""
    counts = Counter((o.label, o.box, o.crowd, o.difficult) for o in image.objects)
    return image.class_map, frozenset(counts.items())


def _to_crowd(each: RawObject, image: RawImage) -> RawObject | None:
    """Return the object as a crowd that fills its box; None if no part of it is in the image."""
    if not all(map(math.isfinite, each.box)):
        return None
    left, top, right, bottom = box = clip_box(each.box, image)
    if right <= left or bottom <= top:
        return None
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    return replace(each, box=box, label=max(0, each.label), crowd=True, segmentation=outline)


def _find_all_crowd(images: Iterable[RawImage]) -> list[Problem]:
    """Return a problem if every object is a crowd: nothing can be learned or measured then."""
    objects = [(image, each) for image in images for each in image.objects]
    if not objects or not all(each.crowd for _, each in objects):
        return []
    message = (
        f"all {len(objects):,} objects are crowds (iscrowd 1), which are not trained on; write"
        " iscrowd 0 where each is one object"
    )
    return [Problem(objects[0][0].where, "", ALL_CROWD, message)]


def flag_normalized_boxes(image_set: RawImageSet) -> RawImageSet:
    """Return the image set, with a flaw for each object if all boxes are within one pixel.

    They are then fractions of the sides, as in YOLO, or in other units than pixels.
    """
    any_finite = False
    for image in image_set.images:
        for each in image.objects:
            if max(each.box) > 1:
                return image_set
            any_finite = any_finite or all(map(math.isfinite, each.box))
    if not any_finite:
        return image_set
    flaw = Flaw(
        "no pixels",
        "all boxes lie within one pixel; write them in pixels, not as fractions of the sides",
    )
    images = [
        replace(
            image,
            objects=tuple(replace(o, flaws=(*o.flaws, flaw)) for o in image.objects),
        )
        for image in image_set.images
    ]
    return replace(image_set, images=images)


def find_name_warnings(classes: Sequence[str]) -> list[str]:
    """Return warnings of class names that look like the same class.

    Names that differ only in spelling (`class_key`) or by a plural s, and names that seem to number
    objects.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[spelling_key(name)].append(name)
    for key in [key for key in groups if f"{key}s" in groups]:
        groups[f"{key}s"] += groups.pop(key)
    warnings = [
        f"classes whose names differ only {SPELLING}, or by a plural's s, each a class of its own:"
        f" {', '.join(quote_names(sorted(names)))}"
        for names in groups.values()
        if len(names) > 1
    ]
    series: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        if (match := NUMBERED_NAME.fullmatch(name)) is not None:
            series[match[1].casefold()].append(name)
    numbered = [names for key, names in series.items() if len(names) > 1]
    if numbered and (len(numbered) > 1 or numbered[0][0].rstrip("0123456789-_ #") in classes):
        examples = "; ".join(", ".join(names[:4]) for names in numbered[:3])
        warnings.append(
            f"{sum(map(len, numbered)):,} of {len(classes):,} classes seem to number the objects of"
            f" one class ({examples}), and each is a class here: give all objects of a class one"
            " name"
        )
    return warnings


def infer_box_frame(image_set: RawImageSet) -> Frame | None:
    """Infer whether boxes refer to stored or upright pixels, if the images show it."""
    return infer_frame(
        ((image.width, image.height), image.stored)
        for image in image_set.images
        if image.stored is not None and image.has_size
    )


def raise_first_problem(problems: Sequence[Problem], hint: str) -> None:
    """Raise DataError with the first of `problems`, if any, and the number of the others."""
    if not problems:
        return
    others = ""
    if len(problems) > 1:
        kinds = Counter(problem.kind for problem in problems)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        others = f" (and {len(problems) - 1:,} more; in all {counts})"
    raise DataError(f"{problems[0]}{others}; {hint}")


def clip_box(box: Box, image: RawImage) -> Box:
    """Return the box clipped to the edges of its image."""
    left, top, right, bottom = box
    return (
        min(max(left, 0.0), image.width),
        min(max(top, 0.0), image.height),
        min(max(right, 0.0), image.width),
        min(max(bottom, 0.0), image.height),
    )


def find_image_problems(image: RawImage, frame: Frame | None = None) -> Iterator[Problem]:
    """Yield the problems of an image as a whole.

    frame: which pixels the boxes of the set are for.
    """
    item = "" if image.name in image.where else image.name
    if image.path is None:
        missing = image.missing or Flaw("missing image", "its image is missing")
        yield Problem(image.where, item, missing.kind, missing.message)
        return
    width, height = image.width, image.height
    if image.unreadable and width == height == 0:
        yield Problem(image.file, "", "unreadable", image.unreadable)
        return
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        message = f"gives its image as {width}x{height}, an invalid size"
        yield Problem(image.where, item, "image size", message)
        return
    if image.stored is not None:
        yield from _find_size_problems(image, image.stored, frame)


def _find_size_problems(
    image: RawImage, stored: StoredSize, frame: Frame | None
) -> Iterator[Problem]:
    upright, annotated = stored.upright, (image.width, image.height)
    stored_size = stored.width, stored.height
    if annotated != upright:
        note = f", as it is stored before EXIF orientation {stored.orientation} turns it"
        message = (
            f"is {upright[0]}x{upright[1]}, its annotations are for {annotated[0]}x{annotated[1]}"
            + (note if annotated == stored_size else "")
        )
        yield Problem(image.file, "", "image size", message)
        return
    is_ambiguous = upright == stored_size or not image.has_size
    has_annotations = image.objects or image.class_map
    if stored.orientation != 1 and is_ambiguous and frame != "upright" and has_annotations:
        annotations = "class maps" if image.class_map else "boxes"
        explanation = (
            f"its set's {annotations} are for images as stored"
            if frame
            else f"its size does not tell whether its {annotations} are for the image as stored or"
            f" upright; detect.apply_exif=true says upright; for {annotations} on the stored pixels"
            " remove the tag"
        )
        message = f"is turned by EXIF orientation {stored.orientation}; {explanation}"
        yield Problem(image.file, "", "orientation", message)


def find_object_problems(
    each: RawObject, image: RawImage, classes: Sequence[str], masks: bool
) -> Iterator[Problem]:
    """Yield the problems of an object of a valid image."""
    item = f"{image.name}, {each.item}" if image.where.endswith(".json") else each.item

    def problem(kind: str, message: str) -> Problem:
        return Problem(image.where, item, kind, message)

    for flaw in each.flaws:
        yield problem(flaw.kind, flaw.message)
        if flaw.kind == FORM:
            return
    if each.label < 0:
        yield problem(
            "category", f"category {each.category} is not one of the {len(classes)} known"
        )
    if any(flaw.kind == "no number" for flaw in each.flaws):
        return
    if not all(map(math.isfinite, each.box)):
        yield problem("no number", f"its box {_format_box(each.box)} is not four finite numbers")
        return
    left, top, right, bottom = each.box
    if right <= left or bottom <= top:
        yield problem("no area", f"its box {_format_box(each.box)} has no area")
    elif _overhang(each.box, image) > TOLERANCE:
        size = f"{image.width}x{image.height}"
        yield problem("outside", f"its box {_format_box(each.box)} passes the edge of {size}")
    elif min(right, image.width) <= max(left, 0) or min(bottom, image.height) <= max(top, 0):
        yield problem("no area", f"its box {_format_box(each.box)} has no area inside the image")
    if each.segmentation is None and masks:
        yield problem(NO_OUTLINE, "it has no segmentation")
    if each.segmentation is not None:
        try:
            check_segmentation(each.segmentation, image.height, image.width, TOLERANCE)
        except MaskError as error:
            yield problem("mask", f"its segmentation {error}")


def _overhang(box: Box, image: RawImage) -> float:
    """Return by how many pixels a box exceeds the image."""
    left, top, right, bottom = box
    return max(-left, -top, right - image.width, bottom - image.height)


def _format_box(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
