"""Unreadable images: each is logged once and counted, and too many of them stop a run.

Training replaces an unreadable image by another, evaluation excludes it. Both use the
`BadSamples` of their split, which decides how many are too many.
"""

from __future__ import annotations

import logging
import threading

from resnets.data.errors import DataError

log = logging.getLogger("resnets")

MAX_LISTED = 3  # files listed in the error that stops a run


class BadSamples:
    """The unreadable images of a split of `total` images called `name`; thread-safe.

    max_unreadable: the fraction of images that may be unreadable; one image always may, unless it
    is 0. None allows any number, as in evaluation, but if `total` is known one image must be
    readable. logged: whether errors are logged, where they are not reported otherwise.
    """

    def __init__(
        self,
        name: str = "",
        total: int = 0,
        max_unreadable: float | None = None,
        *,
        logged: bool = True,
    ) -> None:
        self.name, self.total, self.max_unreadable = name, total, max_unreadable
        self.logged = logged
        self._errors: dict[int, str] = {}
        self._lock = threading.Lock()

    def add(self, row: int, error: DataError) -> None:
        """Record that image `row` cannot be read, with its error "name: reason".

        The first error of an image is logged. Raises DataError if there are then too many.
        """
        if self.max_unreadable == 0:
            raise error
        with self._lock:
            new = row not in self._errors
            self._errors[row] = str(error)
            count = len(self._errors)
        if new and self.logged:
            log.warning("%s", error)
        if self.total and count > self.limit:
            raise DataError(self._too_many_message(count)) from error

    def __contains__(self, row: int) -> bool:
        return row in self._errors

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def errors(self) -> dict[int, str]:
        """The error of each, by row, in order."""
        with self._lock:
            return dict(sorted(self._errors.items()))

    @property
    def messages(self) -> list[str]:
        """The errors, in the order of their rows."""
        return list(self.errors.values())

    @property
    def limit(self) -> int:
        """How many images may be unreadable."""
        share = (
            self.total
            if self.max_unreadable is None
            else int(self.max_unreadable * self.total + 1e-9)
        )
        return min(self.total - 1, max(1, share))

    def exhausted_error(self) -> DataError:
        """Return the error to raise if no image is left to replace an unreadable one."""
        reason = f"none of its images can be read, among them {', '.join(self._first_names())}"
        return DataError(f"{self.name}: {reason}; list them with `resnets data check`")

    def _first_names(self) -> list[str]:
        return [message.partition(": ")[0] for message in self.messages[:MAX_LISTED]]

    def _too_many_message(self, count: int) -> str:
        share, names = self.max_unreadable, ", ".join(self._first_names())
        limit = "" if share is None else f", data.max_unreadable = {share:g} allows {self.limit:,}"
        return (
            f"{self.name}: {count:,} of them cannot be read{limit}, among them {names};"
            " find them all with `resnets data check`, and exclude them with data.quarantine"
        )
