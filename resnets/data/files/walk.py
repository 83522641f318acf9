"""The one folder walker, and the one rule for what counts as an image.

Every command that lists images goes through here, so that all see the same files: links to files
and folders are followed, a link that leads back above itself ends there; hidden and system entries
(".git", "@eaDir", "__MACOSX", "Thumbs.db") are left out; files whose suffix says nothing are
recognized by their first bytes. What is left out is counted by reason and suffix in a `LeftOut`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from resnets.data.decode.open_image import HEIF_REMEDY, heif_available, is_heif
from resnets.data.errors import DataError

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "pjpeg", "pjp", "mpo", "jp2", "j2k", "jpx"),
        *("png", "apng", "bmp", "dib", "gif", "webp", "avif", "avifs", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".heics", ".heifs", ".hif"})
UNREAD_IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf"),
        *("pef", "raw", "svg", "svgz", "psd", "psb", "xcf", "exr", "hdr", "dds", "ico", "eps"),
        *(
            "jxl",
            "tga",
            "dcm",
            "dicom",
            "nii",
            "mha",
            "mhd",
            "nrrd",
            "fits",
            "fit",
            "svs",
            "ndpi",
            "czi",
            "djvu",
        ),
    )
)
# Files that are known not to be images, so that they are not opened to see.
OTHER_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("txt", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "toml", "md", "rst", "html"),
        *("htm", "css", "js", "ts", "py", "pyc", "ipynb", "sh", "bat", "c", "h", "cpp", "m", "r"),
        *("log", "ini", "cfg", "conf", "lst", "list", "names", "data", "cls", "idx", "doc", "docx"),
        *("pdf", "xls", "xlsx", "ppt", "pptx", "rtf", "tex", "bib", "zip", "tar", "gz", "tgz"),
        *("bz2", "xz", "7z", "rar", "zst", "mp4", "avi", "mov", "mkv", "webm", "mp3", "wav"),
        *("npy", "npz", "mat", "h5", "hdf5", "pkl", "pickle", "pt", "pth", "onnx", "bin"),
        *("safetensors", "parquet", "arrow", "tfrecord", "lmdb", "mdb", "db", "sqlite", "dll"),
        *("exe", "so", "aux", "tmp", "part", "crdownload", "bak", "lock", "md5", "sha256", "rec"),
    )
)
SYSTEM = frozenset(
    {
        "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini",
        "icon\r", "thumbnails", "lost+found", "lost.dir", "found.000",
        # Recycle bins and snapshots: what was deleted or relabelled would come back.
        "#recycle", "@recycle", "$recycle.bin", "recycler", "network trash folder",
        "temporary items", "system volume information",
        "#snapshot", "@snapshot", "@snapshots", "~snapshot", "@recently-snapshot", "@gmt-snapshots",
        # Of network storage: thumbnails, indexes, shares that are kept in sync.
        "@eadir", "@__thumb", "@tmp", "@sharebin", "@sharesnap", "@synologydrive",
        "#workinghistory", "@database", "@appdata", "@cloudsync", "@docker",
    }
)  # fmt: skip
# Snapshots under the name of their time, as Windows and Samba show them.
SNAPSHOT = re.compile(r"@gmt-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d")
MAGIC = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|BM....\0\0\0\0....[\x0c-\x7c]\0\0\0"  # BMP: size, two zeros, offset, size of a header
    rb"|RIFF....WEBP"
    rb"|II\*\0|MM\0\*|II\+\0|MM\0\+"  # TIFF, BigTIFF
    rb"|P[1-6][ \t\r\n]+[#\d]"  # PBM, PGM, PPM
    rb"|....ftypavi[fs]"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",  # JPEG 2000, its bare stream
    re.DOTALL,
)
JXL_MAGIC = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", re.DOTALL)
HEAD_BYTES = 64  # enough for all of the above
SHOWN = 4  # suffixes named for one reason
MOST_VISITS = 1000  # times that one folder may be reached: links to links multiply

NOT_IMAGE = "not an image"
HIDDEN = "hidden or of a system"
LOOP = "link to a folder above itself"
BROKEN_LINK = "link to nothing"
SPECIAL = "pipe or device"
UNREAD = "image format that is not read, convert to PNG or JPEG"

Head = Callable[[], bytes]


@dataclass
class LeftOut:
    """What a listing left out, counted by (reason, suffix), with one example of each.

    `links`: how many links to folders were followed. Reasons are texts for people.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    links: int = 0

    def add(self, reason: str, path: str, *, suffix: str | None = None, count: int = 1) -> None:
        """Count the file or folder `path`."""
        key = reason, suffix_of(path) if suffix is None else suffix
        self.counts[key] += count
        self.examples.setdefault(key, path)

    def add_all(self, other: LeftOut) -> None:
        """Count what another one counted."""
        self.counts.update(other.counts)
        self.links += other.links
        for key, path in other.examples.items():
            self.examples.setdefault(key, path)

    def without(self, reasons: Iterable[str]) -> LeftOut:
        """The same but for some reasons."""
        out = set(reasons)
        counts = {key: count for key, count in self.counts.items() if key[0] not in out}
        return LeftOut(Counter(counts), self.examples, self.links)

    @property
    def total(self) -> int:
        """Files and folders left out."""
        return self.counts.total()

    def parts(self) -> list[str]:
        """One text for each reason, those with the most files first: "6 .heic (needs ...)"."""
        found: dict[str, Counter[str]] = {}
        for (reason, suffix), count in self.counts.items():
            found.setdefault(reason, Counter())[suffix] += count
        order = sorted(found, key=lambda reason: (-found[reason].total(), reason))
        return [self._part(reason, found[reason]) for reason in order]

    def said(self) -> str:
        """For the end of a message: "; left out: 6 .heic (...), 2 .txt (...)", "" for nothing."""
        return f"; left out: {', '.join(self.parts())}" if self.counts else ""

    def _part(self, reason: str, suffixes: Counter[str]) -> str:
        if set(suffixes) == {""}:
            such = self.examples[reason, ""]
            entries = "entry" if suffixes.total() == 1 else "entries"
            named = f"{reason}, such as {such}" if such else reason
            return f"{suffixes.total():,} {entries} ({named})"
        most = suffixes.most_common(SHOWN)
        texts = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in most]
        if len(suffixes) > SHOWN:
            texts.append(f"{suffixes.total() - sum(count for _, count in most):,} others")
        return f"{', '.join(texts)} ({reason})"


def suffix_of(path: str) -> str:
    """Lower-case suffix of a file name with its dot, "" where it has none."""
    return posixpath.splitext(path)[1].lower()


def read_suffixes() -> frozenset[str]:
    """Suffixes of images that can be read here; HEIC's are among them where pillow-heif is."""
    return IMAGE_SUFFIXES | HEIC_SUFFIXES if heif_available() else IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or program, not to a data set."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM or SNAPSHOT.fullmatch(lower) is not None


def is_visible(path: str) -> bool:
    """Whether neither a file nor a folder it is in is hidden."""
    return not any(map(is_hidden, path.split("/")))


def hidden_part(path: str) -> str | None:
    """The path up to its first hidden part, None where it has none."""
    parts = path.split("/")
    for count, part in enumerate(parts, start=1):
        if is_hidden(part):
            return "/".join(parts[:count])
    return None


def why_not_image(path: str, head: Head) -> str | None:
    """Why a visible file is no image that can be read, None for one that is.

    Its suffix decides where it is a known one; else its first bytes, `head()` of HEAD_BYTES bytes,
    which may raise OSError or DataError.
    """
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in HEIC_SUFFIXES:
        return None if heif_available() else HEIF_REMEDY
    if suffix in UNREAD_IMAGES:
        return UNREAD
    if suffix in OTHER_SUFFIXES:
        return NOT_IMAGE
    try:
        return why_not_image_bytes(head())
    except (OSError, DataError):
        return NOT_IMAGE


def why_not_image_bytes(head: bytes) -> str | None:
    """Why the first bytes are those of no image that can be read, None where they are."""
    if MAGIC.match(head):
        return None
    if is_heif(head):
        return None if heif_available() else HEIF_REMEDY
    return UNREAD if JXL_MAGIC.match(head) else NOT_IMAGE


def walk_folder(
    root: Path,
    left_out: LeftOut | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """Every visible file below `root` in the order of its path, relative, with forward slashes.

    Folders, empty ones too, come before what is in them, with a slash at the end. One folder is
    held at a time. Links are followed; what is hidden, a pipe, a link to nothing or a link to a
    folder above itself is counted in `left_out`. A folder that may not be listed raises DataError,
    unless `onerror` takes it.
    """
    counted = LeftOut() if left_out is None else left_out
    visits: Counter[tuple[int, int]] = Counter()

    def below(prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        place = root / prefix if prefix else root
        try:
            found = os.stat(place)
            with os.scandir(place) as entries:
                names = sorted(_names(entries, prefix, counted))
        except OSError as error:
            if error.filename is None:
                error.filename = str(place)
            if onerror is None:
                raise DataError(
                    f"{place}: cannot be listed ({error.strerror}); make it readable, or remove it"
                ) from error
            onerror(error)
            return
        here = found.st_dev, found.st_ino
        visits[here] += 1
        if visits[here] > MOST_VISITS:
            raise DataError(
                f"{place}: reached in more than {MOST_VISITS:,} ways, by links to links"
            )
        inside = above | {here}
        for name in names:
            path = prefix + name
            if not name.endswith("/"):
                yield path
                continue
            bare = path[:-1]
            if os.path.islink(root / bare):
                if _identity(root / bare) in inside:
                    counted.add(LOOP, bare, suffix="")
                    continue
                counted.links += 1
            yield path
            yield from below(path, inside)

    yield from below("", _above(root))


def walk_images(
    root: Path,
    left_out: LeftOut | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """The images among the files of `walk_folder`; the others are counted in `left_out`."""
    counted = LeftOut() if left_out is None else left_out
    for path in walk_folder(root, counted, onerror):
        if path.endswith("/"):
            continue
        reason = why_not_image(path, partial(file_head, root / path))
        if reason is None:
            yield path
        else:
            counted.add(reason, path)


def walk_unlabeled(root: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """The same for what needs no classes: a folder that may not be listed stands for itself.

    Reading it then says why. DataError where `root` is one.
    """
    closed: list[str] = []

    def keep(error: OSError) -> None:
        path = Path(error.filename)
        if path == root:
            raise DataError(f"{root}: cannot be listed ({error.strerror})") from error
        closed.append(path.relative_to(root).as_posix())

    for path in walk_images(root, left_out, keep):
        yield from closed
        closed.clear()
        yield path
    yield from closed


def file_head(path: Path) -> bytes:
    """The first bytes of a file; OSError where it cannot be read."""
    with open(path, "rb", opener=without_waiting) as stream:
        return stream.read(HEAD_BYTES)


def without_waiting(path: str, flags: int) -> int:
    """Open a file; opening a pipe without a writer would block otherwise."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def visible_of(names: Iterable[str], left_out: LeftOut) -> list[str]:
    """The visible ones of an archive's entries; each hidden file or folder is counted once."""
    hidden: set[str] = set()
    kept = []
    for name in names:
        part = hidden_part(name)
        if part is None:
            kept.append(name)
        elif part not in hidden:
            hidden.add(part)
            left_out.add(HIDDEN, part, suffix="")
    return kept


def _names(entries: Iterator[os.DirEntry[str]], prefix: str, left_out: LeftOut) -> Iterator[str]:
    """What to call the visible entries of a folder: folders with a slash, as paths have it."""
    for entry in entries:
        if is_hidden(entry.name):
            left_out.add(HIDDEN, prefix + entry.name, suffix="")
            continue
        kind = _kind(entry)
        if kind == "folder":
            yield f"{entry.name}/"
        elif kind == "file" or (kind == "gone" and suffix_of(entry.name) in read_suffixes()):
            yield entry.name  # a link to nothing that is called like an image: reading it says why
        else:
            left_out.add(BROKEN_LINK if kind == "gone" else SPECIAL, prefix + entry.name)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "gone", "special"]:
    """What an entry, or what a link leads to, is; no call of the system for what is no link."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "gone" if entry.is_symlink() else "special"
    except OSError:
        return "gone"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _above(root: Path) -> frozenset[tuple[int, int]]:
    """The folders that hold `root`: a link to one of them would lead back here."""
    found = map(_identity, root.resolve().parents)
    return frozenset(each for each in found if each is not None)
