"""Names of image files and of their folders, as annotations state them and as they are stored."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qs, unquote

from resnets.data.layout.folder_names import split_role
from resnets.detect.images.store import has_image_suffix

Parts = tuple[str, ...]
# Suffixes under which tools write the same format; "x.jpg" never stands for "x.png".
_SAME_FORMAT = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
_IMAGE_FOLDERS = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "frames"}
)
_KINDS = (
    r"masks?|labels?|trimaps?|mattes?|alphas?|semantic|panoptic|instances?|segmentations?|seg"
    r"|stuffthingmaps|pixelmaps|gt|ground_?truth|annotated|drawn|drawings?|overlays?|boxes"
    r"|vis|viz|visuali[sz]ations?|visuali[sz]ed|previews?|thumb(?:nail)?s?|depths?|disparity|heatmaps?"
)
_NOT_IMAGES = re.compile(
    rf"(?:{_KINDS})(?:[_\- ].*)?|.*[_\- ](?:{_KINDS})|segmentation(?:class|object).*", re.IGNORECASE
)

_DRAWN = re.compile(
    r"(?:drawn|drawings?|overlays?|vis|viz|visuali[sz]ations?|visuali[sz]ed|previews?"
    r"|predict(?:ed|ions?)?\d*|preds?)(?:[_\- ].*)?",
    re.IGNORECASE,
)


def image_folder(path: str) -> bool:
    """Whether the folder of `path` is one of images, not of masks, drawings or thumbnails."""
    return not holds_no_images(posixpath.dirname(path))


def is_images_name(name: str) -> bool:
    """Whether a folder is called like one that holds images ("images", "JPEGImages")."""
    return name.lower() in _IMAGE_FOLDERS


def is_drawn(path: str) -> bool:
    """Whether a file lies in a folder of drawings or predictions, not of annotations."""
    return any(_DRAWN.fullmatch(part) for part in path_parts(posixpath.dirname(path)))


def holds_no_images(folder: str) -> bool:
    """Whether a folder is called like one of masks or drawings, and no images/ inside one."""
    parts = path_parts(folder)
    last = max((place for place, part in enumerate(parts) if part in _IMAGE_FOLDERS), default=-1)
    return any(map(is_no_image_folder, parts[last + 1 :]))


def is_no_image_folder(name: str) -> bool:
    """Whether a folder is called like one of masks, drawings or the like."""
    return _NOT_IMAGES.fullmatch(name) is not None


def variants(name: str) -> list[str]:
    """A stated name with forward slashes: as written, then with URL escapes resolved."""
    plain = [plain_path(name)]
    if "%" in name or "?" in name:
        query = parse_qs(name.partition("?")[2]).get("d")  # Label Studio's local files
        plain += [plain_path(query[0] if query else unquote(name))]
        plain += [plain_path(unquote(name.partition("?")[0]))]
    return list(dict.fromkeys(filter(None, plain)))


def plain_path(name: str) -> str:
    """Without scheme and host, drive, leading slashes, "." and ".."."""
    text = unicodedata.normalize("NFC", name).strip().replace("\\", "/")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://[^/]*", text):
        text = text[scheme.end() :]
    parts: list[str] = []
    for part in re.sub(r"\A[A-Za-z]:", "", text).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def closest(paths: Sequence[str], hint: str) -> tuple[str, ...]:
    """Those of `paths` that share the longest end with `hint`, a path or a file name."""
    stated = path_parts(plain_path(hint))
    ranks = [common_end(stated, path_parts(path)) for path in paths]
    return tuple(path for path, rank in zip(paths, ranks, strict=True) if rank == max(ranks))


def same_spelling(paths: Sequence[str], name: str) -> Sequence[str]:
    """Those of `paths` called exactly as stated, else but for case, else all."""
    base = posixpath.basename(name)
    if not has_image_suffix(base):
        return paths
    for spelled in (_composed, folded):
        found = [p for p in paths if spelled(posixpath.basename(p)) == spelled(base)]
        if found:
            return found
    return paths


def common_end(stated: Parts, parts: Parts) -> int:
    """How many of the last parts of two paths are the same."""
    count = 0
    for one, other in zip(reversed(stated), reversed(parts), strict=False):
        if one != other:
            break
        count += 1
    return count


def stem_of(name: str) -> str:
    """A stated name without folders and the suffix of an image, folded."""
    base = base_name(name)
    return folded(posixpath.splitext(base)[0] if has_image_suffix(base) else base)


def base_name(name: str) -> str:
    """The last part of a stated path."""
    return posixpath.basename(plain_path(name))


def path_parts(folder: str) -> Parts:
    """The parts of a path, folded."""
    return tuple(folded(folder).split("/")) if folder else ()


def image_format(name: str) -> str:
    """The suffix of a format, the same for those under which tools write one format."""
    suffix = posixpath.splitext(name)[1].lower()
    return _SAME_FORMAT.get(suffix, suffix)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Text without regard to case and to how Unicode composes it."""
    return unicodedata.normalize("NFC", text).casefold()


def nearest_holding(folder: str, holding: Sequence[Sequence[str]]) -> str | None:
    """The nearest folder that `folder` is in, itself included, with one of `holding` in it.

    `holding`: sorted folders.
    """
    while folder:
        for folders in holding:
            nearest = (bisect_left(folders, start) for start in (folder, f"{folder}/"))
            if any(at < len(folders) and is_inside(folders[at], folder) for at in nearest):
                return folder
        folder = posixpath.dirname(folder)
    return None


def is_inside(path: str, folder: str | None) -> bool:
    """Whether a folder is `folder` or in it; None = anywhere."""
    return folder is None or path == folder or path.startswith(f"{folder}/")


def folder_of_set(title: str, images: Iterable[str]) -> str | None:
    """The one folder, among `images` and those they are in, that is called like the image set."""
    folders = {
        "/".join(parts[:count])
        for each in images
        for parts in (each.split("/"),)
        for count in range(1, len(parts) + 1)
    }
    name = title.rpartition(":")[2]
    role = split_role(name)
    for fits in (
        lambda last: folded(last) == folded(name),
        lambda last: role is not None and split_role(last) == role,
    ):
        called = {each for each in folders if name and fits(posixpath.basename(each))}
        if len(called) == 1:
            return called.pop()
    return None
