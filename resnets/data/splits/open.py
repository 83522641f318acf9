"""Open a stored data set as training, validation and test images, with the run's record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.labeled_images import Split, with_summary
from resnets.data.dataset.labels import class_counts
from resnets.data.dataset.probe_split import ImageProbe, probe_images
from resnets.data.dataset.source import Rows, Source
from resnets.data.dataset.summary import DataSummary, summarize
from resnets.data.decode.pixel_values import RANGE_16_BIT, Levels, describe_levels
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles
from resnets.data.sources.open import apply_label_form, find_source
from resnets.data.splits.check_results import KnownLeaks, fingerprint_source, load_known_leaks
from resnets.data.splits.corrections import apply_corrections
from resnets.data.splits.image_record import ROLES, TEST, TRAIN, VAL, Changes, Fingerprint
from resnets.data.splits.image_versions import version_warnings
from resnets.data.splits.label_warnings import class_warnings
from resnets.data.splits.overlap import Overlap
from resnets.data.splits.roles import TITLES, Roles, choose_roles
from resnets.data.splits.share import Share
from resnets.data.tables.flat_labels import UNREAD_TABLES

log = logging.getLogger("resnets")


@dataclass(frozen=True)
class Splits:
    """A data set divided into splits.

    `test()` opens the test images, which nothing else does; None if there are none.

    for_training: the training images; None if all of them were held out before, which is possible
    only for a set opened for evaluation. summary: how the set was interpreted; each split has it
    too. fingerprint: the record for a run; None unless the set was opened for training. changes:
    differences from the set that the run recorded; None if not compared. overlaps: byte-identical
    images, and groups, in training and held-out splits. recognized: the set is the one that the run
    names, or was recognized by its images. value_range: as in `DataSpec`, or measured on the
    training images. checked: earlier results of `resnets data check`, if the set was opened for
    training.
    """

    for_training: Split | None
    val: Split | None
    classes: tuple[str, ...]
    name: str
    test: Callable[[], Split | None]
    summary: DataSummary
    fingerprint: Fingerprint | None = None
    changes: Changes | None = None
    overlaps: Sequence[Overlap] = ()
    recognized: bool = True
    value_range: Levels | None = None
    checked: KnownLeaks | None = None

    @property
    def train(self) -> Split:
        """The training images; raises DataError if there are none."""
        if self.for_training is None:
            raise _no_training_images(self.name)
        return self.for_training


def _no_training_images(name: str) -> DataError:
    return DataError(
        f"{name}: no training images are left; those in its training part were all held out before"
        " (parts that exchanged their names?) or are in quarantine"
    )


def open_data(
    spec: DataSpec,
    known: Fingerprint | None = None,
    *,
    source: Source | None = None,
    training: bool = False,
    other: bool = False,
    whole: bool = False,
) -> Splits:
    """Open `spec.source`, and hold out validation and test shares if it has no such parts.

    Shares are drawn from the training part by `spec.split_seed` and the identity of each image
    (`data.dataset.image_identity`). Images in quarantine are excluded from the shares they would be
    in.

    source: the set, if given as a Python object; `spec.source` is then its name. known: the run's
    record of its set. Images keep the role they had there, and none that was trained on is held
    out. other: the source is not the one that the run names; unless `known` shows that it is the
    same set elsewhere, only images that were trained on are removed from its held-out splits, and
    with `whole` nothing of it is held out. training: the set is opened for training. Byte-identical
    images, and groups, in training and held-out splits are then treated as `spec.overlap` says.

    Raises DataError if the set is missing, empty, damaged or of one class only, or if images are in
    training and held-out splits.
    """
    source = find_source(spec) if source is None else apply_label_form(source, spec)
    source = apply_corrections(source, spec, other=other)
    check_classes(source, 1 if other else 2)
    if source.multilabel and (spec.folds or spec.train_fraction < 1):
        field = "folds" if spec.folds else "train_fraction"
        raise ConfigError(
            f"data.{field}: cannot be used with multi-label images ({spec.source}); folds and "
            "subsets are drawn per class"
        )
    roles = choose_roles(source, spec, known, other=other, whole=whole)
    warnings, overlaps = _settle_for_training(roles, source, spec) if training else ([], [])
    levels, found_in_pixels = _find_levels(roles, source, spec, training)
    warnings += found_in_pixels
    changes = roles.changes() if known is not None and not roles.other else None
    summary = _summarize(roles, changes, describe_levels(levels), warnings)

    def open_split(role: int) -> Split | None:
        share = roles.share(role)
        if share is None:
            return None
        probe = ImageProbe(levels)
        if spec.has_stacks:
            pass
        elif not training or role in roles.own_roles():
            probe = _probe_share(share, levels or RANGE_16_BIT)
        split = share.part.open(
            share.rows,
            source.classes,
            ", ".join(filter(None, (roles.description(role), probe.note))),
            replace(spec, value_range=levels),
            training=role == TRAIN,
        )
        if training:
            return with_summary(split, summary)
        conflicts = roles.label_conflicts(role) if known is not None else ()
        found = (*summary.warnings, *conflicts, *probe.warnings)
        return with_summary(split, replace(summary, warnings=tuple(dict.fromkeys(found))))

    return Splits(
        open_split(TRAIN),
        open_split(VAL),
        source.classes,
        source.name,
        lambda: open_split(TEST),
        summary,
        roles.fingerprint() if training else None,
        changes,
        overlaps,
        recognized=not roles.other,
        value_range=levels,
        checked=load_known_leaks(roles, lambda: fingerprint_source(source, spec.source))
        if training
        else None,
    )


def _probe_share(share: Share | None, levels: Levels | None) -> ImageProbe:
    if share is None or share.part.files is None or len(share.rows) == 0:
        return ImageProbe(levels)
    return probe_images(share.part.files, share.rows, levels)


def _summarize(
    roles: Roles, changes: Changes | None, notes: Sequence[str], warnings: Sequence[str]
) -> DataSummary:
    """Summarize the set: which images have which role, and why."""
    source, spec, skipped = roles.source, roles.spec, SkippedFiles()
    train = roles.share(TRAIN) or Share(source.train, np.empty(0, np.int64))
    shares: dict[str, tuple[Rows | None, str]] = {"train": (train.rows, train.part.title)}
    quarantined = train.quarantined
    key = "rank" if spec.split_rule == "rank" else "identity"
    if key == "identity" and source.train.files is None:
        key = "pixels"
    by = f"image {key}" if spec.group is None else "group"
    if source.val is not None:
        kept, num_quarantined = roles.kept_rows(VAL)
        shares["val"] = kept, source.val.title
        quarantined += num_quarantined
    if source.test is not None:
        kept, num_quarantined = roles.kept_rows(TEST)
        shares["test"] = kept, source.test_title
        quarantined += num_quarantined
    for name, role, fraction in (
        ("val", VAL, spec.val_fraction),
        ("test", TEST, spec.test_fraction),
    ):
        if name not in shares and (share := roles.share(role)) is not None:
            origin = f"{fraction:.0%} held out by {by}, seed {spec.split_seed}"
            if role == TEST and spec.folds:
                origin = f"fold {spec.fold} of {spec.folds} by {by}, seed {spec.split_seed}"
            shares[name] = share.rows, origin
            quarantined += share.quarantined
    if quarantined:
        skipped.add("in quarantine", "", suffix="", count=quarantined)
    change_notes = [f"set changed since training: {changes}"] if changes else []
    source = replace(
        source,
        notes=(*change_notes, *roles.shortfalls(), *source.notes, *notes),
        warnings=(*source.warnings, *warnings),
    )
    groups = {ROLES[role]: count for role, count in roles.group_counts().items()}
    return replace(summarize(source, shares, skipped), grouped_by=spec.group, groups=groups)


def _settle_for_training(
    roles: Roles, source: Source, spec: DataSpec
) -> tuple[list[str], Sequence[Overlap]]:
    """Apply `spec.overlap`; return warnings about labels and roles, and the overlaps.

    Raises DataError if no training images are left.
    """
    warnings = list(roles.label_conflicts())
    overlaps = roles.settle_overlap()
    roles.warn_of_absent()
    for line in roles.shortfalls():
        log.warning("%s: %s", spec.source, line)
    if roles.share(TRAIN) is None:
        raise _no_training_images(spec.source)
    counts = class_counts(source.train.labels, len(source.classes)).tolist()
    warnings += [*roles.unmeasured_classes(), *version_warnings(roles)]
    warnings += class_warnings(source.classes, counts)
    return warnings, overlaps


def _find_levels(
    roles: Roles, source: Source, spec: DataSpec, training: bool
) -> tuple[Levels | None, list[str]]:
    """Return the pixel values that become 0 and 255, and warnings about pixels.

    Stacks are normalized by channel, so they need no common range.
    """
    levels = spec.value_range or source.value_range
    warnings: list[str] = []
    if spec.has_stacks:
        return levels, []
    if levels is None or training:
        probe = _probe_share(roles.share(TRAIN), levels)
        levels = probe.levels
        warnings += probe.warnings
    for role in roles.own_roles() if training else ():
        found = _probe_share(roles.share(role), levels or RANGE_16_BIT).warnings
        warnings += [f"{TITLES[role]} images: {each}" for each in found]
    return levels, warnings


def check_classes(source: Source, least: int) -> None:
    """Raise DataError if a source has fewer than `least` classes, or one without images."""
    least = 1 if source.multilabel else least
    if len(source.classes) < least:
        found = (
            f"one class only ({', '.join(source.classes)}); a classifier needs two or more, each in"
            " a folder of its own"
        )
        unread = [note for note in source.notes if note.startswith(UNREAD_TABLES)]
        raise DataError(f"{source.name}: {'; '.join([*unread, found])}")
    counts = class_counts(source.train.labels, len(source.classes))
    if len(counts) > len(source.classes):
        raise DataError(
            f"{source.name}: label {len(counts) - 1}, but {len(source.classes)} classes"
        )
    if not counts.all():
        raise DataError(f"{source.name}: class {source.classes[counts.argmin()]} has no images")


@dataclass(frozen=True, eq=False)
class SetReport:
    """What a run reports about its images: training and held-out images, and changes.

    fingerprint: the record of images in checkpoints; None if the data are not images. changes:
    differences from the set that the resumed run recorded; None for a new run, or without a record.
    overlaps: byte-identical images, and groups, in two splits. resumed: the run is resumed.
    checked: earlier results of `resnets data check`, if any.
    """

    fingerprint: Fingerprint | None
    changes: Changes | None
    overlaps: Sequence[Overlap] = ()
    resumed: bool = False
    checked: KnownLeaks | None = None

    @property
    def notes(self) -> list[str]:
        """Notes for the user, one line each."""
        notes: list[str] = []
        if self.fingerprint is None:
            return notes
        if self.resumed and self.changes is None:
            notes.append(
                "the checkpoint keeps no record of its images (of an earlier version); whether"
                " the set changed since is not known"
            )
        if self.changes:
            notes.append(
                f"the set changed since the run was stopped: {self.changes}; images keep the split"
                " they were in, and new ones are placed by the split rule"
            )
        for overlap in self.overlaps:
            treatment = "excluded from training" if overlap.excluded else "data.overlap=allow"
            notes.append(f"{overlap} ({treatment})")
        if self.checked is not None:
            notes.append(self.checked.describe())
        unread = int((self.fingerprint.content == 0).sum())
        if unread:
            notes.append(
                f"the contents of {unread:,} images are not compared (streamed, unreadable, or more"
                " than 200,000 or 128 GiB): copies among them are not found"
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return the entries of result.json: images by split, changes, byte-identical images."""
        changes = self.changes
        if self.fingerprint is None:
            return {}
        now = self.fingerprint.counts() if changes is None else dict(changes.images)
        entry: dict[str, Any] = {"images": now}
        if self.resumed:
            entry["changes"] = None if changes is None else dict(changes.counts)
        for overlap in self.overlaps:
            name = "overlap" if overlap.group is None else "group_overlap"
            entry[name] = {ROLES[role]: n for role, n in overlap.counts.items()}
            entry[f"{name}_left_out"] = overlap.excluded
        if self.checked is not None:
            entry["data_check"] = self.checked.to_json()
        return entry
