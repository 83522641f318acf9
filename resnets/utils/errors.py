"""The errors of this package: each is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from resnets.utils.terminal import printable


class ResnetsError(ValueError):
    """What all errors of the package derive from that a user is to read.

    Names of files, members and classes are part of messages and may hold anything; as text the
    message is one printable line.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(ResnetsError):
    """A recipe, spec or option that cannot be used; its message says which field and why."""


class RemoteError(ResnetsError):
    """What failed in another process of the run, which says so itself."""


class BusyError(ConfigError):
    """A folder or file that another process is writing; the message says which process."""
