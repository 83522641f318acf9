"""Which images of a stored set are trained on and which are held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.image_identity import hold_out_by_rank, joined_rows
from resnets.data.dataset.labels import class_counts
from resnets.data.dataset.pack import PackFiles
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.dataset.source import Part, Rows, Source
from resnets.data.errors import DataError
from resnets.data.order import STREAM_SPLIT, random_bits
from resnets.data.splits.groups import group_keys
from resnets.data.splits.image_record import (
    FEW,
    NEW,
    TEST,
    TRAIN,
    VAL,
    Changes,
    Fingerprint,
    Keyed,
    keys_of_part,
    rows_by_role,
)
from resnets.data.splits.label_warnings import Labeled, label_conflicts, unmeasured_classes
from resnets.data.splits.overlap import Overlap, copied, earlier, find_overlap
from resnets.data.splits.share import RankRule, Share, held_out_rows, named, noted, some_of

TITLES = ("training", "validation", "test")


class Roles:
    """Which of a source's images are trained on and which are held out.

    known: what the run remembers of its set. other: the source is another set than the run's, and
    with `whole` nothing of it is held out. The test part is not opened before it is asked for.
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
        self._own: dict[int, Part | None] = {TRAIN: None, VAL: source.val}
        self._keys: dict[int, Keyed] = {}
        self._groups: dict[int, Keys | None] = {}
        self._shares: dict[int, Share | None] = {}

    def is_known_set(self) -> bool:
        """Whether this is the set that the run knows, at whatever place."""
        if self.known is None:
            return False
        keys = self._keys_of(TRAIN)
        return self.known.is_of(keys.ids, keys.content)

    def check_recognized(self) -> None:
        """DataError where nearly nothing of the set is what the run knows under this name."""
        if self.known is None or not len(self.known):
            return
        share, found = self.known.recognized(self._keys_of(TRAIN))
        if share < FEW:
            raise DataError(
                f"{self.spec.source}: of {len(self.known):,} images that the run knows {found:,}"
                " are recognized in it, so what was trained on cannot be told from what was held"
                " out; restore the set that the run was trained on, begin a run for this one, or,"
                " to measure on it as on another set, move it to another path and name that with"
                " --data"
            )

    def _own_part(self, role: int) -> Part | None:
        """The part that the source has for a held-out role."""
        if role not in self._own:
            self._own[role] = self.source.test() if self.source.test else None
        return self._own[role]

    def _keys_of(self, role: int) -> Keyed:
        """The keys of the part that a role's images are in."""
        part = self._own_part(role)
        place = TRAIN if part is None else role
        if place not in self._keys:
            self._keys[place] = keys_of_part(part or self.source.train, place, self.source.classes)
        return self._keys[place]

    @cached_property
    def _training_rows(self) -> tuple[Rows, Rows, Rows]:
        """Rows of the training part by role: images that the run knows keep theirs."""
        rows = held_out_rows(self.source, self.spec, lambda: self._keys_of(TRAIN), self._by_rank)
        if self.known is None or self.other:
            return rows
        keys = self._keys_of(TRAIN)
        side = np.zeros(len(keys.ids), np.int64)
        side[rows[VAL]], side[rows[TEST]] = VAL, TEST
        before = self._with_groups(self.known.roles_of(keys), keys)
        return rows_by_role(np.where(before == NEW, side, before))

    def _with_groups(self, before: NDArray[np.int8], keys: Keyed) -> NDArray[np.int8]:
        """The roles (N,) images had before, new ones as the others of their group had it."""
        groups = self._groups_of(TRAIN)
        if groups is None:
            return before
        joined = joined_rows(groups, keys.content, groups)
        least = np.full(len(before), len(TITLES), np.int8)
        known = before != NEW
        np.minimum.at(least, joined[known], before[known])
        of_group = np.where(least == len(TITLES), NEW, least)[joined]
        return np.where(known, before, of_group).astype(np.int8)

    def _groups_of(self, role: int) -> Keys | None:
        """The keys of the groups of the part that a role's images are in; None without groups."""
        part = self._own_part(role)
        place = TRAIN if part is None else role
        if place not in self._groups:
            self._groups[place] = group_keys(part or self.source.train, self.spec)
        return self._groups[place]

    def group_counts(self) -> dict[int, int]:
        """How many groups each role has images of; of a test part only where it was opened."""
        counts = {}
        for role in (TRAIN, VAL, TEST):
            if role == TEST and self.source.test is not None and TEST not in self._own:
                continue
            share, groups = self.share(role), self._groups_of(role)
            if share is not None and groups is not None:
                counts[role] = len(np.unique(groups[share.rows]))
        return counts

    def share(self, role: int) -> Share | None:
        """The images of a role; None where there are none."""
        if role not in self._shares:
            self._shares[role] = self._find(role)
        return self._shares[role]

    def _find(self, role: int) -> Share | None:
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
        kept = self._quarantine.keep(part.files, rows)
        quarantined = len(rows) - len(kept)
        if quarantined:
            notes.append(f"{quarantined:,} in quarantine")
        if len(kept) == 0:
            raise DataError(
                f"{self._title(part, role)}: all are in quarantine; see data.quarantine"
            )
        if role == TRAIN and self.spec.train_fraction < 1 and not self.other:
            kept = self._fraction(part, kept)
            notes.append(f"{self.spec.train_fraction:g} of them used (data.train_fraction)")
        rows = kept
        if self.known is not None:
            rows = self._without_trained(self.known, part, kept, role)
            if len(rows) < len(kept):
                notes.append(f"{len(kept) - len(rows):,} left out because they were trained on")
            if self.other and (role != TRAIN or self.whole):
                notes.append(self._compared(role, rows))
            notes += self._copies(self.known, rows, role)
        if len(rows) == 0:
            raise DataError(
                f"{self._title(part, role)}: all of its {len(kept):,} images were trained on;"
                " measure them as such with --split train, or give images that were not"
            )
        return Share(part, rows, tuple(notes), quarantined)

    def _fraction(self, part: Part, rows: Rows) -> Rows:
        """The share of training `rows` that is used: those of the least numbers, class by class."""
        keys, groups = self._keys_of(TRAIN), self._groups_of(TRAIN)
        ids = keys.ids if groups is None else groups
        luck = random_bits(self.spec.split_seed, 1, ids[rows], STREAM_SPLIT)
        chosen = []
        for label in np.unique(part.labels[rows]):
            own = np.flatnonzero(part.labels[rows] == label)
            count = max(1, round(self.spec.train_fraction * len(own)))
            chosen.append(own[np.argsort(luck[own], kind="stable")][:count])
        return rows[np.sort(np.concatenate(chosen))]

    def _without_trained(self, known: Fingerprint, part: Part, rows: Rows, role: int) -> Rows:
        """The `rows` of a held-out split that the run did not train on."""
        keys = self._keys_of(role)
        if self.other and (role != TRAIN or self.whole):
            return rows[~known.trained(keys.content[rows])]
        if self.other or part is self.source.train:  # placed by what is known already
            return rows
        return rows[known.roles_of(keys)[rows] != TRAIN]

    def _compared(self, role: int, rows: Rows) -> str:
        """How the images of another set were compared with those that were trained on."""
        assert self.known is not None
        keys = self._keys_of(role).take(rows)
        if not keys.content.any() or not self.known.content.any():
            return "not compared with training images, since contents were not read"
        stems = np.sort(self.known.stems[(self.known.roles == TRAIN) & (self.known.stems != 0)])
        alike = int(np.isin(keys.stems, stems).sum())
        text = "only byte-identical copies of training images are recognized"
        if alike:
            text += f"; {alike:,} have the path of a training image, with other bytes"
        return text

    def _copies(self, known: Fingerprint, rows: Rows, role: int) -> list[str]:
        """Notes on images that are in two splits, or were."""
        if role == TRAIN:
            owned = [each for each in (VAL, TEST) if self._own_part(each) is not None]
            count = sum(len(self._training_rows[each]) for each in owned)
            return [f"{count:,} left out that were held out before"] if count else []
        if self.other:
            return []
        content = self._keys_of(role).content[rows]
        count = int(known.among(content, earlier(role)).sum())
        return [copied(role, count)] if count else []

    def kept_rows(self, role: int) -> tuple[Rows | None, int]:
        """The rows that are not in quarantine of the part that the source has for a role, and how
        many are; None for all. A test part is opened for it only where images may be listed."""
        packed = isinstance(self.source.train.files, PackFiles)
        if not self._quarantine.paths and not packed:
            return None, 0
        if (part := self._own_part(role)) is None:
            return None, 0
        every = np.arange(len(part.labels))
        kept = self._quarantine.keep(part.files, every)
        return kept, len(every) - len(kept)

    def description(self, role: int) -> str:
        """What protocols say of the images of a role, of which there are some."""
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
        """The held-out roles that the source has a part of its own for."""
        return [role for role in (VAL, TEST) if self._own_part(role) is not None]

    def unmeasured_classes(self) -> list[str]:
        """A line for each part of the source that is held out and lacks classes of training."""
        lines: list[str] = []
        for role in self.own_roles():
            if (share := self.share(role)) is not None:
                labels = share.part.labels[share.rows]
                lines += unmeasured_classes(labels, self.source.classes, TITLES[role])
        return lines

    def label_conflicts(self, *chosen: int) -> tuple[str, ...]:
        """A warning where byte-identical images of some roles, or all, have different labels."""
        shares = [(role, self.share(role)) for role in chosen or (TRAIN, VAL, TEST)]
        return label_conflicts(
            [
                Labeled(share.part, share.rows, self._keys_of(role).content[share.rows])
                for role, share in shares
                if share is not None
            ],
            self.source.classes,
        )

    def settle_overlap(self) -> list[Overlap]:
        """Treat byte-identical images of two splits, and groups that are in both, as the recipe
        says; an `Overlap` for either that there is.

        DataError names the first pair where they are refused.
        """
        found = [self._settle(lambda role: self._keys_of(role).content)]
        if (group := self.spec.group) is not None:
            found.append(self._settle(self._groups_of, group))
        return [each for each in found if each is not None]

    def _settle(
        self, keys_of: Callable[[int], Keys | None], group: str | None = None
    ) -> Overlap | None:
        """The same for images whose keys are equal."""
        shares = {role: self.share(role) for role in (TRAIN, VAL, TEST)}
        keys = {}
        for role, share in shares.items():
            if share is not None and (every := keys_of(role)) is not None:
                keys[role] = every[share.rows]
        found = find_overlap(keys, group)
        if found is None:
            return None
        if self.spec.overlap == "refuse":
            names = (named(shares[role], place) for role, place in found.first)
            raise DataError(found.refusal(self.spec.source, *names))
        if self.spec.overlap == "leave-out":
            for role, places in found.copies.items():
                what = "copies of held-out images" if group is None else "of held-out groups"
                note = f"{len(places):,} left out that are {what}"
                self._shares[role] = noted(shares[role], note, places)
            return replace(found, left_out=True)
        if self.known is None or group:  # else it was noted with what is known
            for role, count in found.counts.items():
                self._shares[role] = noted(shares[role], copied(role, count, group))
        return found

    def shortfalls(self) -> list[str]:
        """Of which classes no image is held out though a share of them was asked for, a line each.

        They have too few images, or too few that are no copies of each other.
        """
        if self.whole:
            return []
        lines = []
        for role, fraction in ((VAL, self.spec.val_fraction), (TEST, self.spec.test_fraction)):
            own = self.source.val if role == VAL else self.source.test
            if not fraction or own is not None:
                continue
            held = self.source.train.labels[self._training_rows[role]]
            counts = class_counts(held, len(self.source.classes))
            names = [self.source.classes[label] for label in np.flatnonzero(counts == 0)]
            if names:
                what = (
                    "no image is" if len(names) == len(counts) else f"of {some_of(names)} none is"
                )
                lines.append(
                    f"{what} held out as {TITLES[role]} images: too few of a class, or copies of"
                    f" one another{' or all of one group' if self.spec.group else ''}"
                )
        return lines

    def warn_of_absent(self) -> None:
        """Log what the quarantine lists and none of the parts has."""
        parts = (self.source.train, *(self._own_part(role) for role in (VAL, TEST)))
        stored = [part.files for part in parts if part is not None and part.files is not None]
        self._quarantine.warn_of_absent(
            files.name(row) for files in stored for row in range(len(files))
        )

    def fingerprint(self) -> Fingerprint:
        """The record of what is trained on and what is held out, with all that was known before."""
        current = self._record()
        return current if self.known is None else self.known.merged(current)

    def changes(self) -> Changes:
        """How the set differs from the one that the run knew."""
        assert self.known is not None
        return self.known.changes(self._record())

    def _record(self) -> Fingerprint:
        parts = {}
        for role in (TRAIN, VAL, TEST):
            share = self.share(role)
            if share is not None:
                keys = self._keys_of(role)
                parts[role] = keys.take(share.rows)
        return Fingerprint.of(parts)


def choose_roles(
    source: Source,
    spec: DataSpec,
    known: Fingerprint | None,
    *,
    other: bool = False,
    whole: bool = False,
    by_rank: RankRule = hold_out_by_rank,
) -> Roles:
    """The roles of a source's images. `other`, `whole`: see `splits.open_data`."""
    if spec.folds and source.test is not None:
        note = f"its own test part ({source.test_title}) is left aside (data.folds)"
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
