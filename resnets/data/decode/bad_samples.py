"""Images that cannot be read: named once, counted, and too many of them stop a run.

Training takes another image in the place of an unreadable one, evaluation leaves it out. Both ask
the `BadSamples` of their split, which decides how many are too many.
"""

from __future__ import annotations

import logging
import threading

from resnets.data.errors import DataError

log = logging.getLogger("resnets")

SHOWN = 3  # files named by the error that stops a run


class BadSamples:
    """The unreadable images of one split of `total` images; safe to use from several threads.

    `max_unreadable` is the share that may be unreadable: one image always may, unless it is 0.
    None = any number may, as in evaluation; but of a known `total` one must be readable.
    """

    def __init__(self, of: str = "", total: int = 0, max_unreadable: float | None = None) -> None:
        self.of, self.total, self.max_unreadable = of, total, max_unreadable
        self._found: dict[int, str] = {}
        self._lock = threading.Lock()

    def add(self, row: int, error: DataError) -> None:
        """Note that image `row` cannot be read, as `error` says: "name: why". It is logged once.

        Raises DataError when that makes too many.
        """
        if self.max_unreadable == 0:
            raise error
        with self._lock:
            new = row not in self._found
            self._found[row] = str(error)
            count = len(self._found)
        if new:
            log.warning("%s", error)
        if self.total and count > self.most:
            raise DataError(self._too_many(count)) from error

    def __contains__(self, row: int) -> bool:
        return row in self._found

    def __len__(self) -> int:
        return len(self._found)

    @property
    def found(self) -> dict[int, str]:
        """What is wrong with each, by its row, in order."""
        with self._lock:
            return dict(sorted(self._found.items()))

    @property
    def messages(self) -> list[str]:
        """What is wrong with each, in the order of their rows."""
        return list(self.found.values())

    @property
    def most(self) -> int:
        """How many may be unreadable."""
        share = (
            self.total
            if self.max_unreadable is None
            else int(self.max_unreadable * self.total + 1e-9)
        )
        return min(self.total - 1, max(1, share))

    def exhausted(self) -> DataError:
        """What to raise where nothing is left to take an unreadable image's place."""
        said = f"none of its images can be read, among them {', '.join(self._names())}"
        return DataError(f"{self.of}: {said}; look at them with `resnets data check`")

    def _names(self) -> list[str]:
        return [message.partition(": ")[0] for message in self.messages[:SHOWN]]

    def _too_many(self, count: int) -> str:
        share, names = self.max_unreadable, ", ".join(self._names())
        limit = "" if share is None else f", data.max_unreadable = {share:g} allows {self.most:,}"
        return (
            f"{self.of}: {count:,} of them cannot be read{limit}, among them {names};"
            " find them all with `resnets data check`, and leave them out with data.quarantine"
        )
