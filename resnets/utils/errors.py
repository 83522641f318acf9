"""The error of everything a user configures."""

from __future__ import annotations


class ConfigError(ValueError):
    """A recipe, spec or option that cannot be used; its message says which field and why."""


class RemoteError(ValueError):
    """What failed in another process of the run, which says so itself."""


class BusyError(ConfigError):
    """A folder or file that another process is writing; the message says which process."""
