"""What a run says of its images: who is trained on, who is held out, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnets.data.splits.check_record import KnownLeaks
from resnets.data.splits.image_record import ROLES, Changes, Fingerprint
from resnets.data.splits.overlap import Overlap


@dataclass(frozen=True, eq=False)
class SetReport:
    """fingerprint: the record of images that checkpoints keep; None where data are no images.
    changes: how the set differs from the one that the resumed run knew; None for a new run, and
    where there was no record.
    overlaps: byte-identical images, and groups, in two splits. resumed: whether a run is resumed.
    checked: what `resnets data check` found in the set before; None where it was not checked.
    """

    fingerprint: Fingerprint | None
    changes: Changes | None
    overlaps: Sequence[Overlap] = ()
    resumed: bool = False
    checked: KnownLeaks | None = None

    @property
    def notes(self) -> list[str]:
        """What people should know, a line each."""
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
            how = "left out of training" if overlap.left_out else "data.overlap=allow"
            notes.append(f"{overlap} ({how})")
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
        """For result.json: images by split, what changed, and byte-identical ones."""
        changes = self.changes
        if self.fingerprint is None:
            return {}
        now = self.fingerprint.counts() if changes is None else dict(changes.images)
        found: dict[str, Any] = {"images": now}
        if self.resumed:
            found["changes"] = None if changes is None else dict(changes.counts)
        for overlap in self.overlaps:
            name = "overlap" if overlap.group is None else "group_overlap"
            found[name] = {ROLES[role]: n for role, n in overlap.counts.items()}
            found[f"{name}_left_out"] = overlap.left_out
        if self.checked is not None:
            found["data_check"] = self.checked.to_json()
        return found
