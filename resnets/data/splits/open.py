"""A stored set as training, validation and test images, and what a run remembers of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.image_probe import ImageProbe, probe_images
from resnets.data.dataset.labeled_images import Split, with_summary
from resnets.data.dataset.labels import class_counts
from resnets.data.dataset.source import Rows, Source
from resnets.data.dataset.summary import DataSummary, origin_of, summarize
from resnets.data.decode.pixel_values import FULL, Levels, describe_levels
from resnets.data.errors import DataError
from resnets.data.files.walk import LeftOut
from resnets.data.sources.open import find_source, in_label_form
from resnets.data.splits.check_record import KnownLeaks, known_to, source_listing
from resnets.data.splits.corrections import corrected
from resnets.data.splits.image_record import ROLES, TEST, TRAIN, VAL, Changes, Fingerprint
from resnets.data.splits.image_versions import versions_apart
from resnets.data.splits.label_warnings import class_warnings
from resnets.data.splits.overlap import Overlap
from resnets.data.splits.roles import TITLES, Roles, choose_roles
from resnets.data.splits.share import Share
from resnets.data.tables.flat_labels import UNREAD_TABLES

log = logging.getLogger("resnets")


@dataclass(frozen=True)
class Splits:
    """A set, split. `test()` opens the test images, and nothing else does; None without any.

    for_training: the training images; None where all of them were held out before, which only a
    set that was opened to be measured on may have.
    summary: what was understood of the set; each split has it too.
    fingerprint: what a run remembers of them; None where the set was not opened for training.
    changes: how the set differs from the one that the run knew; None where it was not compared.
    overlaps: byte-identical images, and groups, that are trained on and held out.
    recognized: whether it is the set that the run names, or was recognized by its images.
    value_range: as `DataSpec` has it, or as it was measured on the training images.
    checked: what `resnets data check` found before, where the set was opened for training.
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
        """The training images; DataError where there are none."""
        if self.for_training is None:
            raise _none_left(self.name)
        return self.for_training


def _none_left(name: str) -> DataError:
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
    """Open `spec.source` and hold out validation and test shares where it brings none.

    Shares are of the source's training part; which images they are follows from `spec.split_seed`
    and each image's own identity (`data.dataset.image_identity`). Images in quarantine are left out
    of the shares they would be in.

    source: the set, where it is given as a Python object; `spec.source` names it then.
    known: what the run remembers of its set. Images keep the role they had there, and none that
    was trained on is held out. other: the source is not the one that the run names; unless `known`
    tells that it is the same set at another place, only images that were trained on are taken out
    of its held-out splits, and with `whole` nothing of it is held out.
    training: a run trains on it. Byte-identical images, and groups, of the training and a held-out
    split are then treated as `spec.overlap` says.

    DataError says what is missing, empty, damaged or of one class only, or which images are both
    trained on and held out.
    """
    source = find_source(spec) if source is None else in_label_form(source, spec)
    source = corrected(source, spec, other=other)
    check_classes(source, 1 if other else 2)
    if source.multilabel and (spec.folds or spec.train_fraction < 1):
        field = "folds" if spec.folds else "train_fraction"
        raise ConfigError(
            f"data.{field}: {spec.source} has sets of labels; folds and subsets are drawn from each"
            " class alike, which needs one class per image"
        )
    roles = choose_roles(source, spec, known, other=other, whole=whole)
    warnings = list(roles.label_conflicts()) if training else []
    overlaps = roles.settle_overlap() if training else []
    if training:
        roles.warn_of_absent()
        for line in roles.shortfalls():
            log.warning("%s: %s", spec.source, line)
        if roles.share(TRAIN) is None:
            raise _none_left(spec.source)
        warnings += [*roles.unmeasured_classes(), *versions_apart(roles)]
        counts = class_counts(source.train.labels, len(source.classes)).tolist()
        warnings += class_warnings(source.classes, counts)
    levels = spec.value_range or source.value_range
    if spec.has_stacks:  # whose values are normalized by channel, and need no common range
        pass
    elif levels is None or training:
        probe = _probe(roles.share(TRAIN), levels)
        levels = probe.levels
        warnings += probe.warnings
    if training and not spec.has_stacks:
        for role in roles.own_roles():
            found = _probe(roles.share(role), levels or FULL).warnings
            warnings += [f"{TITLES[role]} images: {each}" for each in found]

    changes = roles.changes() if known is not None and not roles.other else None
    summary = _summary(roles, changes, describe_levels(levels), warnings)

    def opened(role: int) -> Split | None:
        share = roles.share(role)
        if share is None:
            return None
        probe = ImageProbe(levels)
        if spec.has_stacks:
            pass
        elif not training or role in roles.own_roles():
            probe = _probe(share, levels or FULL)
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
        opened(TRAIN),
        opened(VAL),
        source.classes,
        source.name,
        lambda: opened(TEST),
        summary,
        roles.fingerprint() if training else None,
        changes,
        overlaps,
        recognized=not roles.other,
        value_range=levels,
        checked=known_to(roles, lambda: source_listing(source, spec.source)) if training else None,
    )


def _probe(share: Share | None, levels: Levels | None) -> ImageProbe:
    if share is None or share.part.files is None or len(share.rows) == 0:
        return ImageProbe(levels)
    return probe_images(share.part.files, share.rows, levels)


def _summary(
    roles: Roles, changes: Changes | None, notes: Sequence[str], warnings: Sequence[str]
) -> DataSummary:
    """What was understood: which images have which role, and how they came to it."""
    source, spec, out = roles.source, roles.spec, LeftOut()
    train = roles.share(TRAIN) or Share(source.train, np.empty(0, np.int64))
    shares: dict[str, tuple[Rows | None, str]] = {"train": (train.rows, origin_of(train.part))}
    quarantined = train.quarantined
    means = "rank" if spec.split_rule == "rank" else "identity"
    if means == "identity" and source.train.files is None:
        means = "pixels"
    by = f"image {means}" if spec.group is None else "group"
    if source.val is not None:
        kept, listed = roles.kept_rows(VAL)
        shares["val"] = kept, origin_of(source.val)
        quarantined += listed
    if source.test is not None:
        kept, listed = roles.kept_rows(TEST)
        shares["test"] = kept, source.test_title
        quarantined += listed
    for name, role, fraction in (
        ("val", VAL, spec.val_fraction),
        ("test", TEST, spec.test_fraction),
    ):
        if name not in shares and (share := roles.share(role)) is not None:
            held = f"{fraction:.0%} held out by {by}, seed {spec.split_seed}"
            if role == TEST and spec.folds:
                held = f"fold {spec.fold} of {spec.folds} by {by}, seed {spec.split_seed}"
            shares[name] = share.rows, held
            quarantined += share.quarantined
    if quarantined:
        out.add("in quarantine", "", suffix="", count=quarantined)
    changed = [f"set changed since training: {changes}"] if changes else []
    source = replace(
        source,
        notes=(*changed, *roles.shortfalls(), *source.notes, *notes),
        warnings=(*source.warnings, *warnings),
    )
    groups = {ROLES[role]: count for role, count in roles.group_counts().items()}
    return replace(summarize(source, shares, out), grouped_by=spec.group, groups=groups)


def check_classes(source: Source, least: int) -> None:
    """DataError where a source has fewer than `least` classes, or one without training images."""
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
