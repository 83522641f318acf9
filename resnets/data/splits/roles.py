"""Decide which images of a stored set are trained on and which are held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.image_identity import find_group_rows, hold_out_by_rank, rows_by_side
from resnets.data.dataset.labels import class_counts
from resnets.data.dataset.pack import PackFiles
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.source import Part, Rows, Source
from resnets.data.errors import DataError
from resnets.data.order import STREAM_SPLIT, random_bits
from resnets.data.splits.image_record import (
    MIN_RECOGNIZED,
    TEST,
    TRAIN,
    UNKNOWN,
    VAL,
    Changes,
    Fingerprint,
    ImageKeys,
    compute_image_keys,
)
from resnets.data.splits.label_warnings import label_conflicts, unmeasured_classes
from resnets.data.splits.overlap import Overlap, earlier_roles, find_overlap, format_copies
from resnets.data.splits.share import RankRule, Share, add_note, hash_groups, held_out_rows
from resnets.utils.printable import join_names

TITLES = ("training", "validation", "test")


class Roles:
    """The images of a source by role: training, validation and test.

    known: the run's record of its set. other: the source is another set than the run's, and with
    `whole` nothing of it is held out. The test part is opened only when it is used.
    """

    def __init__(
        self,
        source: Source,
        spec: DataSpec,
        known: Fingerprint | None,
        *,
        other: bool = False,
        whole: bool = False,
        by_rank: RankRule = hold_out_by_rank,
    ) -> None:
        self.source, self.spec, self.known = source, spec, known
        self.other, self.whole, self._by_rank = other, whole, by_rank
        self._quarantine = Quarantine.of(spec)
        self._own_parts: dict[int, Part | None] = {TRAIN: None, VAL: source.val}
        self._keys: dict[int, ImageKeys] = {}
        self._groups: dict[int, Keys | None] = {}
        self._shares: dict[int, Share | None] = {}

    def is_known_set(self) -> bool:
        """Return whether this is the set that the run has recorded, wherever it is stored."""
        if self.known is None:
            return False
        keys = self._get_keys(TRAIN)
        return self.known.is_same_set(keys.ids, keys.content)

    def check_recognized(self) -> None:
        """Raise DataError if nearly none of the images is in the record of this set."""
        if self.known is None or not len(self.known):
            return
        share, found = self.known.recognized_share(self._get_keys(TRAIN))
        if share < MIN_RECOGNIZED:
            raise DataError(
                f"{self.spec.source}: of {len(self.known):,} images that the run knows {found:,}"
                " are recognized in it, so what was trained on cannot be distinguished from what"
                " was held out; restore the set that the run was trained on, begin a run for this"
                " one, or, to measure on it as on another set, move it to another path and name"
                " that with --data"
            )

    def _own_part(self, role: int) -> Part | None:
        """Return the part that the source has for a held-out role."""
        if role not in self._own_parts:
            self._own_parts[role] = self.source.test() if self.source.test else None
        return self._own_parts[role]

    def _get_keys(self, role: int) -> ImageKeys:
        """Return the keys of the part that a role's images are in."""
        part = self._own_part(role)
        key = TRAIN if part is None else role
        if key not in self._keys:
            self._keys[key] = compute_image_keys(
                part or self.source.train, key, self.source.classes
            )
        return self._keys[key]

    @cached_property
    def _training_rows(self) -> tuple[Rows, Rows, Rows]:
        """Rows of the training part by role; recorded images keep theirs."""
        rows = held_out_rows(self.source, self.spec, lambda: self._get_keys(TRAIN), self._by_rank)
        if self.known is None or self.other:
            return rows
        keys = self._get_keys(TRAIN)
        side = np.zeros(len(keys.ids), np.int64)
        side[rows[VAL]], side[rows[TEST]] = VAL, TEST
        before = self._extend_roles_to_groups(self.known.roles_of(keys), keys)
        return rows_by_side(np.where(before == UNKNOWN, side, before))

    def _extend_roles_to_groups(
        self, before: NDArray[np.int8], keys: ImageKeys
    ) -> NDArray[np.int8]:
        """Return the earlier roles (N,) of images; new ones get the role of their group, if any."""
        groups = self._get_groups(TRAIN)
        if groups is None:
            return before
        joined = find_group_rows(groups, keys.content, groups)
        least = np.full(len(before), len(TITLES), np.int8)
        known = before != UNKNOWN
        np.minimum.at(least, joined[known], before[known])
        of_group = np.where(least == len(TITLES), UNKNOWN, least)[joined]
        return np.where(known, before, of_group).astype(np.int8)

    def _get_groups(self, role: int) -> Keys | None:
        """Return the group keys of the part that a role's images are in; None without groups."""
        part = self._own_part(role)
        key = TRAIN if part is None else role
        if key not in self._groups:
            self._groups[key] = hash_groups(part or self.source.train, self.spec)
        return self._groups[key]

    def group_counts(self) -> dict[int, int]:
        """Return the number of groups by role; for a test part only if it was opened."""
        counts = {}
        for role in (TRAIN, VAL, TEST):
            if role == TEST and self.source.test is not None and TEST not in self._own_parts:
                continue
            share, groups = self.share(role), self._get_groups(role)
            if share is not None and groups is not None:
                counts[role] = len(np.unique(groups[share.rows]))
        return counts

    def share(self, role: int) -> Share | None:
        """Return the images of a role; None if there are none."""
        if role not in self._shares:
            self._shares[role] = self._draw_share(role)
        return self._shares[role]

    def shares(self, *chosen: int) -> dict[int, Share]:
        """Return the images of the roles `chosen`, or of all, that have any."""
        found = {role: self.share(role) for role in chosen or (TRAIN, VAL, TEST)}
        return {role: share for role, share in found.items() if share is not None}

    def _draw_share(self, role: int) -> Share | None:
        part = self._own_part(role)
        rows = self._training_rows[role] if part is None else np.arange(len(part.labels))
        part = part or self.source.train
        if len(rows) == 0:
            return None
        found = len(class_counts(part.labels, len(self.source.classes)))
        if found > len(self.source.classes):
            raise DataError(
                f"{self.spec.source}: {TITLES[role]} labels go up to {found - 1},"
                f" but the training part has {len(self.source.classes)} classes"
            )
        notes = []
        kept = self._quarantine.filter_rows(part.files, rows)
        quarantined = len(rows) - len(kept)
        if quarantined:
            notes.append(f"{quarantined:,} in quarantine")
        if len(kept) == 0:
            raise DataError(
                f"{self._title(part, role)}: all are in quarantine; see data.quarantine"
            )
        if role == TRAIN and self.spec.train_fraction < 1 and not self.other:
            kept = self._select_fraction(part, kept)
            notes.append(f"{self.spec.train_fraction:g} of them used (data.train_fraction)")
        rows = kept
        if self.known is not None:
            rows = self._without_trained(self.known, part, kept, role)
            if len(rows) < len(kept):
                notes.append(f"{len(kept) - len(rows):,} excluded because they were trained on")
            if self.other and (role != TRAIN or self.whole):
                notes.append(self._describe_comparison(role, rows))
            notes += self._copy_notes(self.known, rows, role)
        if len(rows) == 0:
            raise DataError(
                f"{self._title(part, role)}: all of its {len(kept):,} images were trained on;"
                " measure them as such with --split train, or give images that were not"
            )
        return Share(part, rows, tuple(notes), quarantined)

    def _select_fraction(self, part: Part, rows: Rows) -> Rows:
        """Select `data.train_fraction` of the rows: per class, those of lowest random number."""
        keys, groups = self._get_keys(TRAIN), self._get_groups(TRAIN)
        ids = keys.ids if groups is None else groups
        random = random_bits(self.spec.split_seed, 1, ids[rows], STREAM_SPLIT)
        chosen = []
        for label in np.unique(part.labels[rows]):
            of_class = np.flatnonzero(part.labels[rows] == label)
            count = max(1, round(self.spec.train_fraction * len(of_class)))
            chosen.append(of_class[np.argsort(random[of_class], kind="stable")][:count])
        return rows[np.sort(np.concatenate(chosen))]

    def _without_trained(self, known: Fingerprint, part: Part, rows: Rows, role: int) -> Rows:
        """Return the `rows` of a held-out split that the run did not train on."""
        keys = self._get_keys(role)
        if self.other and (role != TRAIN or self.whole):
            return rows[~known.was_trained_on(keys.content[rows])]
        if self.other or part is self.source.train:  # placed by the record already
            return rows
        return rows[known.roles_of(keys)[rows] != TRAIN]

    def _describe_comparison(self, role: int, rows: Rows) -> str:
        """Describe how the images of another set were compared with the training images."""
        assert self.known is not None
        keys = self._get_keys(role).take(rows)
        if not keys.content.any() or not self.known.content.any():
            return "not compared with training images, since contents were not read"
        stems = np.sort(self.known.stems[(self.known.roles == TRAIN) & (self.known.stems != 0)])
        num_same_path = int(np.isin(keys.stems, stems).sum())
        text = "only byte-identical copies of training images are recognized"
        if num_same_path:
            text += f"; {num_same_path:,} have the path of a training image, with other bytes"
        return text

    def _copy_notes(self, known: Fingerprint, rows: Rows, role: int) -> list[str]:
        """Return notes on images that are in two splits, or were."""
        if role == TRAIN:
            owned = [each for each in (VAL, TEST) if self._own_part(each) is not None]
            count = sum(len(self._training_rows[each]) for each in owned)
            return [f"{count:,} excluded that were held out before"] if count else []
        if self.other:
            return []
        content = self._get_keys(role).content[rows]
        count = int(known.has_role(content, earlier_roles(role)).sum())
        return [format_copies(role, count)] if count else []

    def kept_rows(self, role: int) -> tuple[Rows | None, int]:
        """Return the rows of a source's own part that are not in quarantine, and how many are.

        None instead of all rows. A test part is opened for this only if images may be listed.
        """
        if not self._quarantine.paths and not isinstance(self.source.train.files, PackFiles):
            return None, 0
        if (part := self._own_part(role)) is None:
            return None, 0
        every = np.arange(len(part.labels))
        kept = self._quarantine.filter_rows(part.files, every)
        return kept, len(every) - len(kept)

    def description(self, role: int) -> str:
        """Describe the images of a role, for protocols; there must be at least one."""
        share = self.share(role)
        assert share is not None
        text = f"{self._title(share.part, role)}, {len(share.rows):,} images"
        return text + (f" ({'; '.join(share.notes)})" if share.notes else "")

    def _title(self, part: Part, role: int) -> str:
        title = " ".join(filter(None, (self.source.name, part.title)))
        if part is self.source.train and len(self._training_rows[role]) < len(part.labels):
            title += f", {TITLES[role]} share (seed {self.spec.split_seed})"
        return title

    def own_roles(self) -> list[int]:
        """Return the held-out roles for which the source has a part."""
        return [role for role in (VAL, TEST) if self._own_part(role) is not None]

    def unmeasured_classes(self) -> list[str]:
        """Return a line for each held-out part of the source that lacks classes of training."""
        lines: list[str] = []
        for role, share in self.shares(VAL, TEST).items():
            if self._own_part(role) is not None:
                labels = share.part.labels[share.rows]
                lines += unmeasured_classes(labels, self.source.classes, TITLES[role])
        return lines

    def label_conflicts(self, *chosen: int) -> tuple[str, ...]:
        """Return a warning if byte-identical images of some roles, or of all, differ in label."""
        shares = self.shares(*chosen)
        contents = [self._get_keys(role).content[share.rows] for role, share in shares.items()]
        return label_conflicts(list(shares.values()), contents, self.source.classes)

    def settle_overlap(self) -> list[Overlap]:
        """Apply `data.overlap` to byte-identical images and groups in two splits; return overlaps.

        Raises DataError, which names the first pair, if they are refused.
        """
        found = [self._settle_by_keys(lambda role: self._get_keys(role).content)]
        if (group := self.spec.group) is not None:
            found.append(self._settle_by_keys(self._get_groups, group))
        return [each for each in found if each is not None]

    def _settle_by_keys(
        self, keys_of: Callable[[int], Keys | None], group: str | None = None
    ) -> Overlap | None:
        """Treat images of two splits with equal keys; see `settle_overlap`."""
        shares = self.shares()
        keys = {
            role: all_keys[share.rows]
            for role, share in shares.items()
            if (all_keys := keys_of(role)) is not None
        }
        found = find_overlap(keys, group)
        if found is None:
            return None
        if self.spec.overlap == "refuse":
            names = (shares[role].name(index) for role, index in found.first)
            raise DataError(found.refusal(self.spec.source, *names))
        if self.spec.overlap == "leave-out":
            for role, indices in found.copies.items():
                what = "copies of held-out images" if group is None else "of held-out groups"
                note = f"{len(indices):,} excluded that are {what}"
                self._shares[role] = add_note(shares[role], note, indices)
            return replace(found, excluded=True)
        if self.known is None or group:  # else noted by `_copy_notes`
            for role, count in found.counts.items():
                self._shares[role] = add_note(shares[role], format_copies(role, count, group))
        return found

    def shortfalls(self) -> list[str]:
        """Return a line for each share that was requested but has no image of some classes.

        These have too few images, or too few that are not copies of each other.
        """
        if self.whole:
            return []
        lines = []
        for role, fraction in ((VAL, self.spec.val_fraction), (TEST, self.spec.test_fraction)):
            own = self.source.val if role == VAL else self.source.test
            if not fraction or own is not None:
                continue
            labels = self.source.train.labels[self._training_rows[role]]
            counts = class_counts(labels, len(self.source.classes))
            names = [self.source.classes[label] for label in np.flatnonzero(counts == 0)]
            if names:
                subject = (
                    "no image is"
                    if len(names) == len(counts)
                    else f"of {join_names(names)} none is"
                )
                lines.append(
                    f"{subject} held out as {TITLES[role]} images: too few of a class, or copies of"
                    f" one another{' or all of one group' if self.spec.group else ''}"
                )
        return lines

    def warn_of_absent(self) -> None:
        """Log entries of the quarantine list that are in none of the parts."""
        parts = (self.source.train, *(self._own_part(role) for role in (VAL, TEST)))
        stored = [part.files for part in parts if part is not None and part.files is not None]
        self._quarantine.warn_of_absent(
            files.name(row) for files in stored for row in range(len(files))
        )

    def fingerprint(self) -> Fingerprint:
        """Return the record of training and held-out images, including all earlier ones."""
        current = self._current_record()
        return current if self.known is None else self.known.merged(current)

    def changes(self) -> Changes:
        """Return the differences from the set that the run recorded."""
        assert self.known is not None
        return self.known.changes(self._current_record())

    def _current_record(self) -> Fingerprint:
        return Fingerprint.of(
            {role: self._get_keys(role).take(share.rows) for role, share in self.shares().items()}
        )


def choose_roles(
    source: Source,
    spec: DataSpec,
    known: Fingerprint | None,
    *,
    other: bool = False,
    whole: bool = False,
    by_rank: RankRule = hold_out_by_rank,
) -> Roles:
    """Assign roles to a source's images. `other`, `whole`: see `splits.open_data`."""
    if spec.folds and source.test is not None:
        note = f"its own test part ({source.test_title}) is not used (data.folds)"
        source = replace(source, test=None, test_images=None, notes=(*source.notes, note))
    roles = Roles(source, spec, known, by_rank=by_rank)
    if not other:
        roles.check_recognized()
        return roles
    if roles.is_known_set():
        return roles
    if whole:
        spec = replace(spec, val_fraction=0.0, test_fraction=0.0)
    spec = replace(spec, group=None, folds=0, fold=0)  # of another set's table or paths
    return Roles(source, spec, known, other=True, whole=whole, by_rank=by_rank)
