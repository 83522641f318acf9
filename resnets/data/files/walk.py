"""The folder walker, and the rule for which files are images.

Every command that lists images uses it, so that all see the same files: links to files and folders
are followed, except a link to a parent folder; hidden and system entries (".git", "@eaDir",
"__MACOSX", "Thumbs.db") are skipped; files with other suffixes are recognized by their first
bytes. Files that are skipped are counted by reason and suffix in a `SkippedFiles`.
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
        "jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "pjpeg", "pjp", "mpo", "jp2", "j2k", "jpx",
        "png", "apng", "bmp", "dib", "gif", "webp", "avif", "avifs", "tif", "tiff",
        "ppm", "pgm", "pbm", "pnm",
    )
)  # fmt: skip
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".heics", ".heifs", ".hif"})
UNSUPPORTED_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf",
        "pef", "raw", "svg", "svgz", "psd", "psb", "xcf", "exr", "hdr", "dds", "ico", "eps",
        "jxl", "tga", "dcm", "dicom", "nii", "mha", "mhd", "nrrd", "fits", "fit", "svs", "ndpi",
        "czi", "djvu",
    )
)  # fmt: skip
# Suffixes of other files, so that these are not opened.
OTHER_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "txt", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "toml", "md", "rst", "html",
        "htm", "css", "js", "ts", "py", "pyc", "ipynb", "sh", "bat", "c", "h", "cpp", "m", "r",
        "log", "ini", "cfg", "conf", "lst", "list", "names", "data", "cls", "idx", "doc", "docx",
        "pdf", "xls", "xlsx", "ppt", "pptx", "rtf", "tex", "bib", "zip", "tar", "gz", "tgz",
        "bz2", "xz", "7z", "rar", "zst", "mp4", "avi", "mov", "mkv", "webm", "mp3", "wav",
        "npy", "npz", "mat", "h5", "hdf5", "pkl", "pickle", "pt", "pth", "onnx", "bin",
        "safetensors", "parquet", "arrow", "tfrecord", "lmdb", "mdb", "db", "sqlite", "dll",
        "exe", "so", "aux", "tmp", "part", "crdownload", "bak", "lock", "md5", "sha256", "rec",
    )
)  # fmt: skip
SYSTEM_NAMES = frozenset(
    {
        "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini",
        "icon\r", "thumbnails", "lost+found", "lost.dir", "found.000",
        # Recycle bins and snapshots, which contain images that were deleted or relabeled.
        "#recycle", "@recycle", "$recycle.bin", "recycler", "network trash folder",
        "temporary items", "system volume information",
        "#snapshot", "@snapshot", "@snapshots", "~snapshot", "@recently-snapshot", "@gmt-snapshots",
        # Network storage: thumbnails, indexes, synchronized shares.
        "@eadir", "@__thumb", "@tmp", "@sharebin", "@sharesnap", "@synologydrive",
        "#workinghistory", "@database", "@appdata", "@cloudsync", "@docker",
    }
)  # fmt: skip
# Snapshots named by their time, as Windows and Samba list them.
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
HEAD_BYTES = 64  # enough for all magic numbers above
MAX_SUFFIXES = 4  # listed for one reason
MAX_VISITS = 1000  # of one folder; links to links multiply them

NOT_IMAGE = "not an image"
HIDDEN = "hidden or of a system"
UNREAD = "not a file of the set"
LOOP = "link to a folder above itself"
BROKEN_LINK = "link to nothing"
OLDER_MEMBER = "older member of a name that the archive has again"
SPECIAL = "pipe or device"
UNSUPPORTED = "image format that is not read, convert to PNG or JPEG"

HeadReader = Callable[[], bytes]


@dataclass
class SkippedFiles:
    """The files that a listing skipped, counted by (reason, suffix), with an example of each.

    links: number of links to folders that were followed. Reasons are texts for users.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    links: int = 0
    _label_files: set[str] = field(default_factory=set)

    def add(self, reason: str, path: str, *, suffix: str | None = None, count: int = 1) -> None:
        """Count the file or folder `path`."""
        key = reason, suffix_of(path) if suffix is None else suffix
        self.counts[key] += count
        self.examples.setdefault(key, path)

    def discard_label_file(self, path: str) -> None:
        """Uncount a file that is not an image but is read for labels, once per path."""
        key = NOT_IMAGE, suffix_of(path)
        if path in self._label_files or not self.counts[key]:
            return
        self._label_files.add(path)
        self.counts[key] -= 1
        if not self.counts[key]:
            del self.counts[key]
            self.examples.pop(key, None)

    def add_all(self, other: SkippedFiles) -> None:
        """Add the counts of another one."""
        self.counts.update(other.counts)
        self.links += other.links
        for key, path in other.examples.items():
            self.examples.setdefault(key, path)

    def without(self, reasons: Iterable[str]) -> SkippedFiles:
        """Return a copy without some reasons."""
        excluded = set(reasons)
        counts = {key: count for key, count in self.counts.items() if key[0] not in excluded}
        return SkippedFiles(Counter(counts), self.examples, self.links)

    @property
    def total(self) -> int:
        """Number of files and folders skipped."""
        return self.counts.total()

    def parts(self) -> list[str]:
        """Return a text for each reason, sorted by number of files: "6 .heic (needs ...)"."""
        found: dict[str, Counter[str]] = {}
        for (reason, suffix), count in self.counts.items():
            found.setdefault(reason, Counter())[suffix] += count
        order = sorted(found, key=lambda reason: (-found[reason].total(), reason))
        return [self._format_reason(reason, found[reason]) for reason in order]

    def describe(self) -> str:
        """Return the end of a message, "; skipped: 6 .heic (...), 2 .txt (...)", or ""."""
        return f"; skipped: {', '.join(self.parts())}" if self.counts else ""

    def _format_reason(self, reason: str, suffixes: Counter[str]) -> str:
        if set(suffixes) == {""}:
            example = self.examples[reason, ""]
            entries = "entry" if suffixes.total() == 1 else "entries"
            text = f"{reason}, such as {example}" if example else reason
            return f"{suffixes.total():,} {entries} ({text})"
        common = suffixes.most_common(MAX_SUFFIXES)
        texts = [f"{count:,} {suffix or 'without extension'}" for suffix, count in common]
        if len(suffixes) > MAX_SUFFIXES:
            texts.append(f"{suffixes.total() - sum(count for _, count in common):,} others")
        return f"{', '.join(texts)} ({reason})"


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of a file name with its dot, or ""."""
    return posixpath.splitext(path)[1].lower()


def read_suffixes() -> frozenset[str]:
    """Return the suffixes of readable images, with HEIC's if pillow-heif is installed."""
    return IMAGE_SUFFIXES | HEIC_SUFFIXES if heif_available() else IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder name belongs to a system or program, not to a data set."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM_NAMES or SNAPSHOT.fullmatch(lower) is not None


def is_visible(path: str) -> bool:
    """Return whether neither a file nor a folder above it is hidden."""
    return not any(map(is_hidden, path.split("/")))


def hidden_part(path: str) -> str | None:
    """Return the path up to its first hidden part; None if there is none."""
    parts = path.split("/")
    for count, part in enumerate(parts, start=1):
        if is_hidden(part):
            return "/".join(parts[:count])
    return None


def why_not_image(path: str, head: HeadReader) -> str | None:
    """Return why a visible file is not a readable image, None if it is one.

    A known suffix decides; otherwise the first HEAD_BYTES bytes, which `head()` returns or raises
    OSError or DataError.
    """
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in HEIC_SUFFIXES:
        return None if heif_available() else HEIF_REMEDY
    if suffix in UNSUPPORTED_SUFFIXES:
        return UNSUPPORTED
    if suffix in OTHER_SUFFIXES:
        return NOT_IMAGE
    try:
        return why_not_image_bytes(head())
    except (OSError, DataError):
        return NOT_IMAGE


def why_not_image_bytes(head: bytes) -> str | None:
    """Return why the first bytes are not those of a readable image, None if they are."""
    if MAGIC.match(head):
        return None
    if is_heif(head):
        return None if heif_available() else HEIF_REMEDY
    return UNSUPPORTED if JXL_MAGIC.match(head) else NOT_IMAGE


def walk_folder(
    root: Path,
    skipped: SkippedFiles | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """Yield every visible file below `root`, sorted by path, relative, with forward slashes.

    Folders, including empty ones, precede their contents and end with a slash. One folder is held
    in memory at a time. Links are followed; hidden entries, pipes, broken links and links to a
    parent folder are counted in `skipped`. A folder that cannot be listed raises DataError, unless
    `onerror` handles it.
    """
    counted = SkippedFiles() if skipped is None else skipped
    visits: Counter[tuple[int, int]] = Counter()

    def iter_folder(prefix: str, parents_above: frozenset[tuple[int, int]]) -> Iterator[str]:
        folder = root / prefix if prefix else root
        try:
            info = os.stat(folder)
            with os.scandir(folder) as entries:
                names = sorted(_iter_names(entries, prefix, counted))
        except OSError as error:
            if error.filename is None:
                error.filename = str(folder)
            if onerror is None:
                raise DataError(
                    f"{folder}: cannot be listed ({error.strerror}); make it readable, or remove it"
                ) from error
            onerror(error)
            return
        folder_id = info.st_dev, info.st_ino
        visits[folder_id] += 1
        if visits[folder_id] > MAX_VISITS:
            raise DataError(
                f"{folder}: reached by more than {MAX_VISITS:,} paths, through links to links; "
                "remove some of the links"
            )
        parents = parents_above | {folder_id}
        for name in names:
            path = prefix + name
            if not name.endswith("/"):
                yield path
                continue
            folder_path = path[:-1]
            if os.path.islink(root / folder_path):
                if _file_id(root / folder_path) in parents:
                    counted.add(LOOP, folder_path, suffix="")
                    continue
                counted.links += 1
            yield path
            yield from iter_folder(path, parents)

    yield from iter_folder("", _parent_ids(root))


def count_unread(root: Path, read: Iterable[Path]) -> SkippedFiles:
    """Count the files below `root` that a set which is not of images in files does not `read`."""
    skipped, known = SkippedFiles(), set(read)
    for path in walk_folder(root, skipped):
        if not path.endswith("/") and root / path not in known:
            skipped.add(UNREAD, path)
    return skipped


def walk_images(
    root: Path,
    skipped: SkippedFiles | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """Yield the images among the files of `walk_folder`; count the others in `skipped`."""
    counted = SkippedFiles() if skipped is None else skipped
    for path in walk_folder(root, counted, onerror):
        if path.endswith("/"):
            continue
        reason = why_not_image(path, partial(file_head, root / path))
        if reason is None:
            yield path
        else:
            counted.add(reason, path)


def walk_unlabeled(root: Path, skipped: SkippedFiles | None = None) -> Iterator[str]:
    """Yield images as `walk_images`, for uses without classes, and folders that cannot be listed.

    Reading such a folder then reports why. Raises DataError if `root` cannot be listed.
    """
    unlisted: list[str] = []

    def keep_unlisted(error: OSError) -> None:
        path = Path(error.filename)
        if path == root:
            raise DataError(f"{root}: cannot be listed ({error.strerror})") from error
        unlisted.append(path.relative_to(root).as_posix())

    for path in walk_images(root, skipped, keep_unlisted):
        yield from unlisted
        unlisted.clear()
        yield path
    yield from unlisted


def file_head(path: Path) -> bytes:
    """Return the first bytes of a file; raises OSError if it cannot be read."""
    with open(path, "rb", opener=open_nonblocking) as stream:
        return stream.read(HEAD_BYTES)


def open_nonblocking(path: str, flags: int) -> int:
    """Open a file without blocking on a pipe that has no writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def filter_visible(names: Iterable[str], skipped: SkippedFiles) -> list[str]:
    """Return the visible entries of an archive; each hidden file or folder is counted once."""
    hidden: set[str] = set()
    visible = []
    for name in names:
        part = hidden_part(name)
        if part is None:
            visible.append(name)
        elif part not in hidden:
            hidden.add(part)
            skipped.add(HIDDEN, part, suffix="")
    return visible


def _iter_names(
    entries: Iterator[os.DirEntry[str]], prefix: str, skipped: SkippedFiles
) -> Iterator[str]:
    """Yield the names of the visible entries of a folder; folders end with a slash."""
    for entry in entries:
        if is_hidden(entry.name):
            skipped.add(HIDDEN, prefix + entry.name, suffix="")
            continue
        kind = _entry_kind(entry)
        if kind == "folder":
            yield f"{entry.name}/"
        elif kind == "file" or (kind == "gone" and suffix_of(entry.name) in read_suffixes()):
            yield entry.name  # also a broken link named like an image: reading it reports why
        else:
            skipped.add(BROKEN_LINK if kind == "gone" else SPECIAL, prefix + entry.name)


def _entry_kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "gone", "special"]:
    """Return the kind of an entry or link target; only links need a system call."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "gone" if entry.is_symlink() else "special"
    except OSError:
        return "gone"


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _parent_ids(root: Path) -> frozenset[tuple[int, int]]:
    """Return the ids of the folders above `root`: a link to one of them would be a loop."""
    found = map(_file_id, root.resolve().parents)
    return frozenset(each for each in found if each is not None)
