"""Summarize a check: the problems of a data set, worst first, with remedies."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from resnets.config import DataSpec
from resnets.data.check.classes import (
    TEST,
    TRAIN,
    VAL,
    find_role,
    make_class_table,
    summarize_multilabel,
)
from resnets.data.check.leaks import OTHER_LABEL
from resnets.data.check.run import CheckReport
from resnets.data.finding_kinds import (
    DUPLICATE,
    EMPTY_CLASS,
    IMBALANCE,
    LEAK,
    LEAKS,
    MASK,
    NEAR_DUPLICATE,
    NO_CLASS_FOLDER,
    SAME_SOURCE,
    UNLABELED,
    UNLISTED,
    UNMEASURED,
    UNREAD,
    Finding,
    FindingKind,
)
from resnets.data.splits.image_versions import series_warnings
from resnets.data.splits.label_warnings import class_warnings
from resnets.utils.printable import join_names

UNSEEN = {
    MASK: "are masks, maps or copies next to their image",
    UNLABELED: "without a label",
    NO_CLASS_FOLDER: "in no class folder",
    UNLISTED: "in no image set",
}
DONE, FAILED, LEAKING = 0, 1, 3  # exit codes


@dataclass(frozen=True)
class VerdictItem:
    """One statement: what was found, and what it means or what to do.

    weight: "leak", "refused", "broken", "suspect" or "good".
    """

    weight: Literal["leak", "refused", "broken", "suspect", "good"]
    text: str
    advice: str = ""


def exit_code(report: CheckReport) -> int:
    """Return the exit code of a check.

    3 if parts share images; 1 if images are unreadable or have two labels, annotations are invalid,
    or training refuses the data set; 0 otherwise. Images in quarantine do not count.
    """
    if report.leaks:
        return LEAKING
    bad = report.broken or report.annotations or report.refused
    return FAILED if bad or report.copies(DUPLICATE, other_label=True) else DONE


def make_verdict(report: CheckReport) -> list[VerdictItem]:
    """Return all statements about a set, worst first; at least one."""
    points = [
        *_leak_items(report),
        *_refusal_items(report),
        *_broken_items(report),
        *_unread_items(report),
    ]
    points += [VerdictItem("suspect", each) for each in list_warnings(report)]
    points += [
        *_class_items(report),
        *_unseen_items(report),
        *_duplicate_items(report),
        *_crowded_items(report),
    ]
    if not any(point.weight in ("leak", "broken", "refused") for point in points):
        points.insert(0, _good_item(report))
    return [*points, *_quarantined_items(report)]


def list_warnings(report: CheckReport) -> list[str]:
    """Return what may spoil a result without being certain."""
    warnings = [*report.warnings, *report.contents.warnings, *_series_warnings(report)]
    if (table := make_class_table(report.contents)) is not None:
        rows = sorted(table.rows, key=lambda row: row.name)
        warnings += class_warnings([row.name for row in rows], [sum(row.counts) for row in rows])
    if near_copies := report.copies(NEAR_DUPLICATE, other_label=True):
        warnings.append(
            f"{len(near_copies):,}"
            f" {_plural(len(near_copies), 'image is a near-copy', 'images are near-copies')} of an"
            f" image with another label: {near_copies[0].path} ({near_copies[0].detail}); one of"
            " the labels may be wrong"
        )
    copies = [
        each
        for each in _iter_kind(report, SAME_SOURCE)
        if not {each.path, each.other_image} & report.quarantined
    ]
    if copies:
        first = copies[0]
        warnings.append(
            f"{len(copies):,} {_plural(len(copies), 'image has', 'images have')} a copy of the same"
            f" source in another part, by their names: {first.path} ({first.detail});"
            " --exclude same-source lists them"
        )
    return warnings


def _series_warnings(report: CheckReport) -> list[str]:
    """Return warnings about frames of a video, by their names, in different parts."""
    contents = report.contents
    paths = [contents.path(number) for number in range(len(contents))]
    found = [contents.part_and_label(number) for number in range(len(contents))]
    return series_warnings(paths, [label for _, label in found], [part for part, _ in found])


def count_usable(report: CheckReport) -> dict[str, int]:
    """Return the number of images of each part that are neither in quarantine nor unreadable."""
    broken = {each.path for each in report.findings if each.kind.weight == "broken"}
    excluded, contents = broken | report.quarantined, report.contents
    found = dict(report.images)
    for number in range(len(contents) if excluded else 0):
        if contents.path(number) in excluded:
            found[contents.part_and_label(number)[0]] -= 1
    return found


def train_command(spec: DataSpec, quarantine: Path, recipe: str = "scratch") -> str:
    """Return the shell command that trains on the set without the images listed in `quarantine`."""
    path = Path(spec.source).expanduser()
    source = str(path.resolve()) if path.exists() else spec.source
    settings = [f"data.quarantine={quarantine.resolve()}"]
    if spec.labels_from != "auto":
        settings.append(f"data.labels_from={spec.labels_from}")
    if spec.ground_truth is not None:
        settings.append(f"data.ground_truth={Path(spec.ground_truth).expanduser().resolve()}")
    words = ["resnets", "train", recipe, "--data", source]
    for setting in settings:
        words += ["--set", setting]
    return " ".join(map(_quote_word, words))


def _quote_word(word: str) -> str:
    """Quote a word for a shell; unprintable bytes are escaped as in bash and zsh."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{''.join(escaped)}'"


def _leak_items(report: CheckReport) -> Iterator[VerdictItem]:
    pairs: dict[tuple[str, str], list[Finding]] = {}
    for each in report.leaks:
        pairs.setdefault((each.part, each.other_part), []).append(each)
    for (part, held_out), found in sorted(
        pairs.items(), key=lambda pair: _leak_order(report, *pair[0])
    ):
        yield _make_leak_item(report, part, held_out, found)


def _leak_order(report: CheckReport, part: str, held_out: str) -> tuple[bool, bool, str]:
    """Return a sort key: training images among the test images are worst."""
    return _get_role(report, held_out) != TEST, _get_role(report, part) != TRAIN, part


def _make_leak_item(
    report: CheckReport, part: str, held_out: str, found: Sequence[Finding]
) -> VerdictItem:
    role, other = _get_role(report, part), _get_role(report, held_out)
    same = sum(each.kind == LEAK for each in found)
    near = len(found) - same
    one, many = "is a copy", "are copies"
    if near:
        one, many = "is a near-copy", f"are {'copies or ' * bool(same)}near-copies"
    both = sum(each.path == each.other_image for each in found)  # counted in the other part
    total = report.images.get(part, 0) + both
    are = _plural(len(found), one, many)
    text = f"{len(found):,} of {total:,} {role} images {are} of {other} images"
    if same and near:
        text += f" ({same:,} the same image, {near:,} near-copies)"
    if elsewhere := sum(OTHER_LABEL in each.detail for each in found):
        text += f"; {elsewhere:,} of them {_plural(elsewhere, 'has', 'have')} another label there"
    if both:
        text += f"; {both:,} of them {_plural(both, 'is', 'are')} listed in both"
    advice = f"An error measured on the {other} images includes images that were seen in {role}."
    if other == VAL:
        advice = f"Validation errors, which choose the best checkpoint, include {role} images."
    if part.endswith(" share"):
        advice += " The shares are those that training draws by default (data.split_seed=0)."
    if held_out != other and not held_out.endswith(" share"):
        advice += f" ({held_out}/ is the test set here.)"
    return VerdictItem("leak", text, advice)


def _refusal_items(report: CheckReport) -> Iterator[VerdictItem]:
    for reason in report.refused:
        yield VerdictItem("refused", f"Training refuses this set: {reason}")


def _broken_items(report: CheckReport) -> Iterator[VerdictItem]:
    if report.broken:
        count = f"{report.broken:,} {_plural(report.broken, 'image')} cannot be read"
        advice = "Training reads other images in their place; evaluation excludes them."
        yield VerdictItem("broken", count, advice)
    if mislabeled := report.copies(DUPLICATE, other_label=True):
        total, first = len(mislabeled), mislabeled[0]
        same = _plural(total, "image is the same as one", "images are the same as others")
        text = f"{total:,} {same} with another label: one label of each pair is wrong"
        advice = f"Such as {first.path} ({first.detail}). Remove or move the wrong ones."
        yield VerdictItem("broken", text, advice)
    if report.annotations:
        bad = f"{report.annotations:,} bad {_plural(report.annotations, 'annotation')}"
        advice = (
            "Training refuses them; annotations.csv lists them. --repair NEW_FOLDER"
            " corrects boxes and polygons, --set detect.skip_invalid=true trains without bad ones."
        )
        yield VerdictItem("broken", bad, advice)


def _class_items(report: CheckReport) -> Iterator[VerdictItem]:
    table = make_class_table(report.contents)
    counts = report.counts
    if (sets := summarize_multilabel(report.contents)) is not None:
        text = f"Multi-label data: {sets.labels / sets.images:.2f} labels per image on average,"
        text += f" {sets.unlabeled:,} {_plural(sets.unlabeled, 'image')} without a label"
        pairs = ", ".join(f"{one} and {two} ({count:,})" for one, two, count in sets.together)
        yield VerdictItem("good", text, f"Most often together: {pairs}." if pairs else "")
    if counts.get(EMPTY_CLASS):
        empty = join_names([each.path for each in _iter_kind(report, EMPTY_CLASS)])
        yield VerdictItem(
            "suspect", f"Class folders without an image: {empty}", EMPTY_CLASS.meaning
        )
    for role, names in _unmeasured_classes(report).items():
        text = f"{len(names):,} {_plural(len(names), 'class', 'classes')} without a {role} image"
        yield VerdictItem(
            "suspect", f"{text}: {join_names(names)}", "Their errors are not measured."
        )
    if table is not None and counts.get(IMBALANCE):
        detail = next(_iter_kind(report, IMBALANCE)).detail
        yield VerdictItem("suspect", f"Uneven classes: {detail}", IMBALANCE.meaning)


def _unread_items(report: CheckReport) -> Iterator[VerdictItem]:
    """Yield images in unsupported formats, by suffix and remedy."""
    for each in _iter_kind(report, UNREAD):
        suffix = PurePosixPath(each.path).suffix.lower() or "images without extension"
        remedy = each.detail.partition(", ")[2]
        text = f"{each.count:,} {suffix} {_plural(each.count, 'file is', 'files are')} not read"
        yield VerdictItem("suspect", f"{text}: {remedy}", f"Such as {each.path}.")


def _unseen_items(report: CheckReport) -> Iterator[VerdictItem]:
    """Yield images that training excludes."""
    counts = report.counts
    for kind, description in UNSEEN.items():
        if counts.get(kind):
            first = next(_iter_kind(report, kind)).path
            text = (
                f"{counts[kind]:,} {_plural(counts[kind], 'image')} {description}; training does"
                " not see"
            )
            text += f" {_plural(counts[kind], 'it', 'them')}"
            yield VerdictItem("suspect", text, f"Such as {first}.")


def _unmeasured_classes(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in _iter_kind(report, UNMEASURED):
        found.setdefault(_get_role(report, each.part), []).append(each.label)
    return found


def _duplicate_items(report: CheckReport) -> Iterator[VerdictItem]:
    num_copies = len(report.copies(DUPLICATE, NEAR_DUPLICATE, other_label=False))
    if num_copies:
        images = _plural(num_copies, "image is a copy", "images are copies")
        text = f"{num_copies:,} {images} of another in the same split"
        advice = "They count twice; --exclude duplicate,near-duplicate lists them too."
        yield VerdictItem("suspect", text, advice)


def _crowded_items(report: CheckReport) -> Iterator[VerdictItem]:
    if report.crowded:
        yield VerdictItem(
            "suspect",
            f"{report.crowded:,} images look so similar that each was compared with its nearest"
            " neighbors only",
            "Near-copies among them may be missed; exact copies are not.",
        )


def _good_item(report: CheckReport) -> VerdictItem:
    parts = [part for part in report.images if part]
    leak_note = "; no image is in two splits" if len(parts) > 1 else ""
    subject = "All other images" if report.quarantined else "All images"
    return VerdictItem("good", f"{subject} can be read{leak_note}")


def _quarantined_items(report: CheckReport) -> Iterator[VerdictItem]:
    if not report.quarantined:
        return
    count = Counter(
        each.kind in LEAKS
        for each in report.findings
        if each.path in report.quarantined and (each.kind in LEAKS or each.kind.weight == "broken")
    )
    leak_note = f", {count[True]:,} leaks among them" if count[True] else ""
    total = len(report.quarantined)
    text = f"{total:,} {_plural(total, 'image')} in quarantine already{leak_note}"
    yield VerdictItem("good", text, "Training and evaluation exclude them.")


def _get_role(report: CheckReport, part: str) -> str:
    return find_role(part, [*report.images])


def _iter_kind(report: CheckReport, kind: FindingKind) -> Iterator[Finding]:
    return (each for each in report.findings if each.kind == kind)


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
