"""The error of data that cannot be used."""

from __future__ import annotations

from resnets.utils.errors import ResnetsError


class DataError(ResnetsError):
    """Data that cannot be used; the message is one line: what, where, what to do."""
