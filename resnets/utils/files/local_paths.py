"""Paths of local files: URLs are refused, where as a path they would be a folder named "s3:"."""

from __future__ import annotations

import os
import re
from os import PathLike, fspath
from pathlib import Path

from resnets.utils.errors import ConfigError

URL = re.compile(r"[a-z][a-z0-9+.-]+:/{2,}", re.IGNORECASE)
URL_AS_PATH = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)  # `Path` drops a slash


def check_path(path: str, read: str = "files and folders") -> None:
    """Raise ConfigError if `path` is a URL and no existing file; read: what is supported."""
    if (scheme := URL.match(path)) is not None and not os.path.lexists(path):
        raise ConfigError(f"{path}: URLs ({scheme[0]}) are not supported here; give {read}")


def output_path(where: str | PathLike[str], option: str = "--out") -> Path:
    """Return the local path of a file or folder to write, with ~ expanded.

    Raises ConfigError for a URL. option: that gives the path, for messages.
    """
    path = Path(where).expanduser()
    if len(path.parts) > 1 and URL_AS_PATH.fullmatch(path.parts[0]):
        raise ConfigError(
            f"{option} {fspath(where)}: results are written to local files; give a local path"
        )
    return path
