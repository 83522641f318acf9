"""Images of `resnets predict` as files: downloads URLs, reads standard input."""

from __future__ import annotations

import http.client
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from resnets.config import ConfigError
from resnets.utils.files.local_paths import check_path, output_path
from resnets.utils.printable import echo

STDIN = "-"
URL = re.compile(r"https?://\S+", re.IGNORECASE)
MAX_BYTES = 256 << 20  # of one image
SECONDS = 30  # without an answer


@dataclass
class Inputs:
    """Files and folders to read.

    names: the URL of each downloaded file, or "-". failed: number of inputs that could not be read,
    each of which was reported.
    """

    paths: list[Path] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    failed: int = 0

    def name(self, path: Path) -> str:
        """Return the name that the user gave for the image at `path`."""
        return self.names.get(path, str(path))

    def rename_paths(self, message: str) -> str:
        """Replace the paths of downloaded files in `message` by the names that the user gave."""
        for path, name in self.names.items():
            message = message.replace(str(path), name)
        return message

    def report(self, error: str) -> None:
        """Print the `error` of an input that could not be read, and count it."""
        self.failed += 1
        echo(f"resnets predict: {self.rename_paths(error)}", error=True)

    def list_images(self) -> list[Path]:
        """Return the files, with the images of each folder in its place, and print what it has."""
        from resnets.data.dataset.probe_split import warn_unread_frames
        from resnets.data.dataset.summary import announce_folders
        from resnets.data.files.walk import SkippedFiles
        from resnets.evaluate.predict import find_images

        images = find_images(self.paths, skipped := SkippedFiles())
        announce_folders(self.paths, len(images), skipped)
        warn_unread_frames(images, self.rename_paths)
        return images


@contextmanager
def local_files(images: Sequence[str]) -> Iterator[Inputs]:
    """Yield `images` as files; those from URLs and standard input are removed after the block.

    A URL that cannot be read is reported and counted. ConfigError if standard input is a terminal.
    """
    inputs = Inputs()
    with tempfile.TemporaryDirectory(prefix="resnets-") as temporary:
        for number, image in enumerate(images):
            if image != STDIN and not URL.fullmatch(image):
                check_path(image, "read files, folders, URLs (http, https) and - (standard input)")
                inputs.paths.append(Path(image))
                continue
            stem = Path(re.sub(r"[?#].*", "", image)).name if image != STDIN else "stdin"
            folder = Path(temporary, str(number))
            folder.mkdir()
            path = folder / (re.sub(r"[^\w.-]+", "-", stem)[-100:] or "image")
            try:
                path.write_bytes(_read_standard_input() if image == STDIN else _download(image))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if isinstance(error, ConfigError):
                    raise
                reason = getattr(error, "reason", None) or error
                inputs.report(f"{image}: cannot be read ({reason})")
                continue
            inputs.paths.append(path)
            inputs.names[path] = image
        yield inputs


def make_folder(folder: Path, option: str) -> Path:
    """Create the folder that `option` names and return it; ConfigError if it is a file."""
    folder = output_path(folder, option)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {folder}: is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unique_path(folder: Path, name: str, suffix: str, written: Counter[str]) -> Path:
    """Return NAME + `suffix` in `folder`, with a number from the second file of a name on."""
    written[name] += 1
    number = f".{written[name]}" if written[name] > 1 else ""
    return folder / f"{name}{number}{suffix}"


def _read_standard_input() -> bytes:
    if sys.stdin.isatty():
        raise ConfigError(f"{STDIN}: an image from standard input must be piped, as in < cat.jpg")
    return _limited(sys.stdin.buffer.read(MAX_BYTES + 1))


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "resnets"})
    opener = urllib.request.build_opener()  # urlopen keeps the proxies of its first call
    with opener.open(request, timeout=SECONDS) as response:
        return _limited(response.read(MAX_BYTES + 1))


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the image has more than {MAX_BYTES >> 20} MB")
    return data
