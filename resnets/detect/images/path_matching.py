"""How annotation entries refer to their images, and paths compared regardless of their spelling.

Which file an entry refers to is decided in `index`.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from resnets.data.layout.folder_names import split_role
from resnets.detect.images.store import has_image_suffix

Parts = tuple[str, ...]
# Suffixes under which tools write the same format; "x.jpg" never refers to "x.png".
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


@dataclass(frozen=True)
class ImageReference:
    """How one annotation entry refers to its image.

    names: paths or file names as written, in order of preference. annotation_path: path of the
    annotation file in the store. title: its image set. hints: more paths, used only to choose among
    several candidates. own_name: the one of `names` that is derived from the name of the annotation
    file, or ""; the other names must refer to the same image. prefer_own_name: if they do not,
    `own_name` is used if the image that they refer to has an entry of its own.
    """

    names: tuple[str, ...]
    annotation_path: str
    title: str = ""
    hints: tuple[str, ...] = ()
    own_name: str = ""
    prefer_own_name: bool = False

    @property
    def is_consistent(self) -> bool:
        """Whether all names are equal except for folders and image format."""
        return not self.own_name or len({folded_stem(name) for name in self.names}) == 1

    @property
    def group(self) -> tuple[str, str]:
        """Folder of the annotation file, and image set: entries of both share a search root."""
        return posixpath.dirname(self.annotation_path), self.title

    @property
    def states_folder(self) -> bool:
        """Whether the first name has a folder other than that of the annotation file."""
        return posixpath.dirname(self.names[0]) not in ("", self.group[0])


@dataclass(frozen=True)
class Match:
    """The image of an entry, or why there is none (`kind` and `message` as of `Problem`).

    stated_folder: the folder of the entry, if the image is in one with another name.
    """

    path: str | None
    kind: str = ""
    message: str = ""
    stated_folder: str = ""


def describe_renamed_folders(matches: Iterable[Match]) -> list[str]:
    """Return a note for each stated folder whose images were found in another folder."""
    pairs = Counter(
        (match.stated_folder, posixpath.dirname(match.path) or ".")
        for match in matches
        if match.path is not None and match.stated_folder
    )
    return [
        f"{count:,} images stated in {stated}/, which does not exist, are read from {folder}/"
        for (stated, folder), count in pairs.items()
    ]


def describe_folders_of_bare_names(
    entries: Sequence[ImageReference], matches: Sequence[Match]
) -> list[str]:
    """Return a note if images that are stated without a folder were found in several folders.

    One of them may be missing, and another image of the same name be found instead.
    """
    folders = Counter(
        posixpath.dirname(match.path) or "."
        for entry, match in zip(entries, matches, strict=True)
        if match.path is not None and "/" not in normalize_path(entry.names[0])
    )
    if len(folders) < 2:
        return []
    counted = ", ".join(f"{count:,} from {folder}/" for folder, count in folders.most_common(5))
    return [f"images stated without a folder are taken from {len(folders)} folders: {counted}"]


def is_in_image_folder(path: str) -> bool:
    """Return whether `path` is in a folder of images, not of masks, drawings or thumbnails."""
    return not is_derived_folder(posixpath.dirname(path))


def is_image_folder_name(name: str) -> bool:
    """Return whether `name` is a usual name of an image folder ("images", "JPEGImages")."""
    return name.lower() in _IMAGE_FOLDERS


def is_in_drawing_folder(path: str) -> bool:
    """Return whether a file is in a folder of drawings or predictions."""
    return any(_DRAWN.fullmatch(part) for part in folded_parts(posixpath.dirname(path)))


def is_derived_folder(folder: str) -> bool:
    """Return whether a path has a folder of masks or drawings, and no images/ below it."""
    parts = folded_parts(folder)
    last = max(
        (position for position, part in enumerate(parts) if part in _IMAGE_FOLDERS), default=-1
    )
    return any(map(is_derived_folder_name, parts[last + 1 :]))


def is_derived_folder_name(name: str) -> bool:
    """Return whether `name` is a usual name of a folder of masks, drawings or the like."""
    return _NOT_IMAGES.fullmatch(name) is not None


def path_variants(name: str) -> list[str]:
    """Return a stated path, normalized: as written, then with URL escapes resolved."""
    found = [normalize_path(name)]
    if "%" in name or "?" in name:
        query = parse_qs(name.partition("?")[2]).get("d")  # Label Studio's local files
        found += [normalize_path(query[0] if query else unquote(name))]
        found += [normalize_path(unquote(name.partition("?")[0]))]
    return list(dict.fromkeys(filter(None, found)))


def normalize_path(name: str) -> str:
    """Return a path in NFC with "/", without scheme, host, drive, leading slashes, "." and ".."."""
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


def keep_closest(paths: Sequence[str], hint: str) -> tuple[str, ...]:
    """Return the `paths` with the longest common suffix with `hint`, a path or file name."""
    hint_parts = folded_parts(normalize_path(hint))
    ranks = [common_suffix_length(hint_parts, folded_parts(path)) for path in paths]
    return tuple(path for path, rank in zip(paths, ranks, strict=True) if rank == max(ranks))


def keep_same_spelling(paths: Sequence[str], name: str) -> Sequence[str]:
    """Return the `paths` whose file name equals `name`, else those equal but for case, else all."""
    base = posixpath.basename(name)
    if not has_image_suffix(base):
        return paths
    for normalize in (_composed, fold_case):
        matching = [p for p in paths if normalize(posixpath.basename(p)) == normalize(base)]
        if matching:
            return matching
    return paths


def common_suffix_length(one_parts: Parts, other_parts: Parts) -> int:
    """Return the number of equal parts at the end of two paths."""
    count = 0
    for one, other in zip(reversed(one_parts), reversed(other_parts), strict=False):
        if one != other:
            break
        count += 1
    return count


def folded_stem(name: str) -> str:
    """Return the case-folded file name of a stated path, without an image suffix."""
    base = base_name(name)
    return fold_case(posixpath.splitext(base)[0] if has_image_suffix(base) else base)


def base_name(name: str) -> str:
    """Return the file name of a stated path."""
    return posixpath.basename(normalize_path(name))


def folded_parts(folder: str) -> Parts:
    """Return the case-folded parts of a path."""
    return tuple(fold_case(folder).split("/")) if folder else ()


def canonical_suffix(name: str) -> str:
    """Return the suffix of an image format; its spellings (".jpeg", ".jpg") give the same."""
    suffix = posixpath.splitext(name)[1].lower()
    return _SAME_FORMAT.get(suffix, suffix)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def fold_case(text: str) -> str:
    """Return case-folded text in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text).casefold()


def find_nearest_folder(folder: str, folder_lists: Sequence[Sequence[str]]) -> str | None:
    """Return `folder`, or its nearest parent, that contains a folder of `folder_lists`.

    Each of `folder_lists` is sorted. None if there is none.
    """
    while folder:
        for folders in folder_lists:
            positions = (bisect_left(folders, start) for start in (folder, f"{folder}/"))
            if any(i < len(folders) and is_inside(folders[i], folder) for i in positions):
                return folder
        folder = posixpath.dirname(folder)
    return None


def is_inside(path: str, folder: str | None) -> bool:
    """Return whether a path is `folder` or below it; None = anywhere."""
    return folder is None or path == folder or path.startswith(f"{folder}/")


def find_split_folder(title: str, image_folders: Iterable[str]) -> str | None:
    """Return the only one of `image_folders` and their parents that is named like the image set.

    None if there is none, or more than one.
    """
    folders = {
        "/".join(parts[:count])
        for each in image_folders
        for parts in (each.split("/"),)
        for count in range(1, len(parts) + 1)
    }
    name = title.rpartition(":")[2]
    role = split_role(name)
    for is_match in (
        lambda last: fold_case(last) == fold_case(name),
        lambda last: role is not None and split_role(last) == role,
    ):
        matching = {each for each in folders if name and is_match(posixpath.basename(each))}
        if len(matching) == 1:
            return matching.pop()
    return None
