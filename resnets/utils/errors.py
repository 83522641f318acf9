"""The exceptions of this package, and how exceptions of libraries become one of them.

Each message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def reading(
    name: Path | str,
    error: type[ResnetsError] = ConfigError,
    what: str = "",
    remedy: str = "",
) -> Iterator[None]:
    """Turn whatever is raised over the file `name` into an `error` of one line.

    what: what it is read as ("as a tar"). remedy: what to do. Our own errors keep their kind,
    and get the name where they lack it; those of a program that is asked to stop pass.
    """
    end = f"; {remedy}" if remedy else ""
    read = f"read {what}" if what else "read"
    try:
        yield
    except ResnetsError as caught:
        if printable(Path(name).name) in str(caught):
            raise
        raise type(caught)(f"{name}: {caught}") from caught
    except MemoryError:
        raise error(f"{name}: needs more memory than there is{end}") from None
    except Exception as caught:
        why = caught.strerror if isinstance(caught, OSError) and caught.strerror else reason(caught)
        raise error(f"{name}: cannot be {read} ({why}){end}") from caught


def reason(error: BaseException) -> str:
    """The first line of what a library said."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, TypeError | AttributeError | LookupError | RecursionError):
        line = f"damaged ({type(error).__name__}: {line})"  # says nothing by itself
    return line[:300]


def read_object(
    path: Path, error: type[ResnetsError] = ConfigError, remedy: str = ""
) -> dict[str, Any]:
    """The JSON object in a file; `error` where it cannot be read, or is anything else."""
    with reading(path, error, "as JSON", remedy):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__}, not an object")
        return found
