"""What a check comes to: what is wrong with a set, worst first, and what to do about each."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from resnets.config import DataSpec
from resnets.data.check.classes import TEST, TRAIN, VAL, class_table, label_sets, role_of
from resnets.data.check.leaks import ELSEWHERE
from resnets.data.check.run import CheckReport
from resnets.data.finding_kinds import (
    DUPLICATE,
    EMPTY_CLASS,
    IMBALANCE,
    LEAK,
    LEAKS,
    MASK,
    NEAR_DUPLICATE,
    SAME_SOURCE,
    STRAY,
    UNLABELED,
    UNLISTED,
    UNMEASURED,
    UNREAD,
    Finding,
    Kind,
)
from resnets.data.splits.image_versions import series_warnings
from resnets.data.splits.label_warnings import class_warnings

UNSEEN = {
    MASK: "lie beside the image they are a mask, map or copy of",
    UNLABELED: "without a label",
    STRAY: "in no class folder",
    UNLISTED: "in no image set",
}
DONE, FAILED, LEAKING = 0, 1, 3  # exit codes
SHOWN = 3  # classes named in a sentence


@dataclass(frozen=True)
class Point:
    """One thing to know: what it is, and what it means or what to do.

    weight: "leak", "refused", "broken", "suspect" or "good".
    """

    weight: Literal["leak", "refused", "broken", "suspect", "good"]
    text: str
    advice: str = ""


def exit_code(report: CheckReport) -> int:
    """3 where parts that are kept apart share images, 1 where images cannot be read or are there
    under two labels, annotations are bad or training refuses the set, else 0. What is in quarantine
    does not count."""
    if report.leaks:
        return LEAKING
    bad = report.broken or report.annotations or report.refused
    return FAILED if bad or report.copies(DUPLICATE, other_label=True) else DONE


def verdict(report: CheckReport) -> list[Point]:
    """All there is to know of a set, worst first; at least one point."""
    points = [*_leaks(report), *_refusal(report), *_broken(report), *_unread(report)]
    points += [Point("suspect", each) for each in warnings(report)]
    points += [*_classes(report), *_unseen(report), *_duplicates(report), *_crowded(report)]
    if not any(point.weight in ("leak", "broken", "refused") for point in points):
        points.insert(0, _good(report))
    return [*points, *_left_out(report)]


def warnings(report: CheckReport) -> list[str]:
    """What may spoil a result, though nothing proves it."""
    found = [*report.warnings, *report.contents.warnings, *_series(report)]
    if (table := class_table(report.contents)) is not None:
        rows = sorted(table.rows, key=lambda row: row.name)
        found += class_warnings([row.name for row in rows], [sum(row.counts) for row in rows])
    if near := report.copies(NEAR_DUPLICATE, other_label=True):
        found.append(
            f"{len(near):,} {_plural(len(near), 'image is a near-copy', 'images are near-copies')}"
            f" of an image with another label: {near[0].path} ({near[0].detail}); one of the labels"
            " may be wrong"
        )
    copies = [
        each for each in _of(report, SAME_SOURCE) if not {each.path, each.twin} & report.left_out
    ]
    if copies:
        first = copies[0]
        found.append(
            f"{len(copies):,} {_plural(len(copies), 'image has', 'images have')} a copy of the same"
            f" source in another part, by their names: {first.path} ({first.detail});"
            " --leave-out same-source lists them"
        )
    return found


def _series(report: CheckReport) -> list[str]:
    """Frames of one video, by their names, in parts that are kept apart."""
    contents = report.contents
    paths = [contents.path(number) for number in range(len(contents))]
    found = [contents.part_and_label(number) for number in range(len(contents))]
    return series_warnings(paths, [label for _, label in found], [part for part, _ in found])


def usable(report: CheckReport) -> dict[str, int]:
    """How many images of each part are neither in quarantine nor unreadable."""
    broken = {each.path for each in report.findings if each.kind.weight == "broken"}
    out, contents = broken | report.left_out, report.contents
    found = dict(report.images)
    for number in range(len(contents) if out else 0):
        if contents.path(number) in out:
            found[contents.part_and_label(number)[0]] -= 1
    return found


def train_command(spec: DataSpec, quarantine: Path, recipe: str = "scratch") -> str:
    """What to paste into a shell to train on the set without what `quarantine` lists."""
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
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for a shell; bytes that a terminal would not show are written as bash and zsh do."""
    if word.isprintable():
        return shlex.quote(word)
    shown = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{''.join(shown)}'"


def _leaks(report: CheckReport) -> Iterator[Point]:
    pairs: dict[tuple[str, str], list[Finding]] = {}
    for each in report.leaks:
        pairs.setdefault((each.part, each.twin_part), []).append(each)
    for (part, kept), found in sorted(pairs.items(), key=lambda pair: _order(report, *pair[0])):
        yield _leak(report, part, kept, found)


def _order(report: CheckReport, part: str, kept: str) -> tuple[bool, bool, str]:
    """Training images among the test images are worst."""
    return _role(report, kept) != TEST, _role(report, part) != TRAIN, part


def _leak(report: CheckReport, part: str, kept: str, found: Sequence[Finding]) -> Point:
    role, other = _role(report, part), _role(report, kept)
    same = sum(each.kind == LEAK for each in found)
    near = len(found) - same
    what = (
        "copies or near-copies of" if same and near else "near-copies of" if near else "copies of"
    )
    both = sum(each.path == each.twin for each in found)  # counted in the other part
    total = report.images.get(part, 0) + both
    text = f"{len(found):,} of {total:,} {role} images are {what} {other} images"
    if same and near:
        text += f" ({same:,} the same image, {near:,} near-copies)"
    if elsewhere := sum(ELSEWHERE in each.detail for each in found):
        text += f"; {elsewhere:,} of them are labelled as another class there"
    if both:
        text += f"; {both:,} of them are listed in both"
    advice = f"An error measured on the {other} images counts images that were seen in {role}."
    if other == VAL:
        advice = f"Validation errors, which choose the best checkpoint, count {role} images."
    if part.endswith(" share"):
        advice += " The shares are those that training draws by default (data.split_seed=0)."
    if kept != other and not kept.endswith(" share"):
        advice += f" ({kept}/ is the test set here.)"
    return Point("leak", text, advice)


def _refusal(report: CheckReport) -> Iterator[Point]:
    for reason in report.refused:
        yield Point("refused", f"Training refuses this set: {reason}")


def _broken(report: CheckReport) -> Iterator[Point]:
    if report.broken:
        count = f"{report.broken:,} {_plural(report.broken, 'image')} cannot be read"
        advice = "Training takes other images in their place, evaluation leaves them out."
        yield Point("broken", count, advice)
    if mislabeled := report.copies(DUPLICATE, other_label=True):
        total, first = len(mislabeled), mislabeled[0]
        same = _plural(total, "image is the same as one", "images are the same as others")
        text = f"{total:,} {same} with another label: one label of each pair is wrong"
        advice = f"Such as {first.path} ({first.detail}). Remove or move the wrong ones."
        yield Point("broken", text, advice)
    if report.annotations:
        bad = f"{report.annotations:,} bad {_plural(report.annotations, 'annotation')}"
        advice = (
            "Training refuses them; each has a line in annotations.csv. --repair NEW_FOLDER"
            " corrects boxes and outlines, --set detect.skip_invalid=true trains without bad ones."
        )
        yield Point("broken", bad, advice)


def _classes(report: CheckReport) -> Iterator[Point]:
    table = class_table(report.contents)
    counts = report.counts
    if (sets := label_sets(report.contents)) is not None:
        text = f"Sets of labels: {sets.labels / sets.images:.2f} labels per image on average,"
        text += f" {sets.unlabeled:,} {_plural(sets.unlabeled, 'image')} without a label"
        pairs = ", ".join(f"{one} and {two} ({count:,})" for one, two, count in sets.together)
        yield Point("good", text, f"Most often together: {pairs}." if pairs else "")
    if counts.get(EMPTY_CLASS):
        empty = _some([each.path for each in _of(report, EMPTY_CLASS)])
        yield Point("suspect", f"Class folders without an image: {empty}", EMPTY_CLASS.meaning)
    for role, names in _unmeasured(report).items():
        text = f"{len(names):,} {_plural(len(names), 'class', 'classes')} without a {role} image"
        yield Point("suspect", f"{text}: {_some(names)}", "Their errors are not measured.")
    if table is not None and counts.get(IMBALANCE):
        detail = next(_of(report, IMBALANCE)).detail
        yield Point("suspect", f"Uneven classes: {detail}", IMBALANCE.meaning)


def _unread(report: CheckReport) -> Iterator[Point]:
    """Images in formats that are not read, by suffix and remedy."""
    for each in _of(report, UNREAD):
        suffix = PurePosixPath(each.path).suffix.lower() or "images without suffix"
        remedy = each.detail.partition(", ")[2]
        text = f"{each.count:,} {suffix} {_plural(each.count, 'file is', 'files are')} not read"
        yield Point("suspect", f"{text}: {remedy}", f"Such as {each.path}.")


def _unseen(report: CheckReport) -> Iterator[Point]:
    """Images that training leaves out."""
    counts = report.counts
    for kind, said in UNSEEN.items():
        if counts.get(kind):
            first = next(_of(report, kind)).path
            text = (
                f"{counts[kind]:,} {_plural(counts[kind], 'image')} {said}; training does not see"
            )
            text += f" {_plural(counts[kind], 'it', 'them')}"
            yield Point("suspect", text, f"Such as {first}.")


def _unmeasured(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in _of(report, UNMEASURED):
        found.setdefault(_role(report, each.part), []).append(each.label)
    return found


def _duplicates(report: CheckReport) -> Iterator[Point]:
    alike = len(report.copies(DUPLICATE, NEAR_DUPLICATE, other_label=False))
    if alike:
        text = f"{alike:,} {_plural(alike, 'image is a copy', 'images are copies')} of another in"
        advice = "They count twice; --leave-out duplicate,near-duplicate lists them too."
        yield Point("suspect", f"{text} the same part", advice)


def _crowded(report: CheckReport) -> Iterator[Point]:
    if report.crowded:
        yield Point(
            "suspect",
            f"{report.crowded:,} images look so much alike that each was compared with its nearest"
            " neighbours only",
            "Near-copies among them may be missed; exact copies are not.",
        )


def _good(report: CheckReport) -> Point:
    parts = [part for part in report.images if part]
    apart = "; no part shares an image with another" if len(parts) > 1 else ""
    left = "All other images" if report.left_out else "All images"
    return Point("good", f"{left} can be read{apart}")


def _left_out(report: CheckReport) -> Iterator[Point]:
    if not report.left_out:
        return
    count = Counter(
        each.kind in LEAKS
        for each in report.findings
        if each.path in report.left_out and (each.kind in LEAKS or each.kind.weight == "broken")
    )
    known = f", {count[True]:,} leaks among them" if count[True] else ""
    total = len(report.left_out)
    text = f"{total:,} {_plural(total, 'image')} in quarantine already{known}"
    yield Point("good", text, "Training and evaluation leave them out.")


def _role(report: CheckReport, part: str) -> str:
    return role_of(part, [*report.images])


def _of(report: CheckReport, kind: Kind) -> Iterator[Finding]:
    return (each for each in report.findings if each.kind == kind)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
