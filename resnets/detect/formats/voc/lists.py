"""Image lists of VOC and ImageNet: which XML files each image set consists of."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from resnets.data.layout.folder_names import split_role
from resnets.detect.data.values import read_name
from resnets.detect.formats.records import is_training_set
from resnets.detect.images.path_matching import common_suffix_length
from resnets.detect.images.store import Store, has_image_suffix

SET_FOLDER = "ImageSets/Main"
IMAGENET_FOLDER, DET_FOLDER = "ImageSets/CLS-LOC", "ImageSets/DET"
UNLISTED = "unlisted"  # title of XML files in no list, where no list is for training
_FLAG = re.compile(r"\s+-?\d+\Z")


def find_voc(store: Store) -> dict[str, list[str]]:
    """Return the XML files by image set; empty if there are none.

    A listed image without XML keeps its path, so that the check can report it. A list none of whose
    images has one (VOC 2012's test set) is excluded. If lists are only for validation and test, the
    other XML files are an image set of their own.
    """
    files = store.find_files("", ".xml")
    if not files:
        return {}
    if lists := image_lists(store, files):
        files_by_stem = _group_by_stem(files)
        folders = frozenset(part for path in files for part in path.casefold().split("/")[:-1])
        found = {
            title: _resolve_missing(
                stems, [_find_xml(stem, files_by_stem, folders, store) for stem in stems], store
            )
            for title, stems in lists.items()
        }
        found = {title: paths for title, paths in found.items() if any(p in store for p in paths)}
        used = {path for paths in found.values() for path in paths}
        unused = [path for path in files if path not in used]
        if found and unused and not any(map(is_training_set, found)):
            found[UNLISTED] = unused  # not to be trained on unless it is named
        return found
    files_by_folder = defaultdict(list)
    for path in files:
        parents = PurePosixPath(path).parts[:-1]
        files_by_folder[next((name for name in parents if split_role(name)), "")].append(path)
    return dict(files_by_folder)


def image_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Return the stems by image set, from VOC's lists or any text files named like splits."""
    return (
        find_lists(store, SET_FOLDER)
        or _find_imagenet_lists(store, files)
        or _find_imagenet_det_lists(store, files)
        or find_lists(store, "ImageSets", nested=False)
        or _find_other_lists(store, files)
    )


def _find_imagenet_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Return ImageNet's lists: train_loc has the training images with boxes, train_cls all."""
    lists = find_lists(store, IMAGENET_FOLDER)
    loc, cls = lists.pop("train_loc", None), lists.pop("train_cls", None)
    if "train" in lists or not (loc or cls):
        return lists
    stems = frozenset(map(_stem, files))
    with_boxes = loc or [path for path in cls or () if _stem(path) in stems]
    return {"train": with_boxes, **lists}


def _find_imagenet_det_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Return the lists of ImageNet's detection set.

    train_1 to train_200 list images with and without a class; the training set is all images of
    these lists that have an XML file.
    """
    lists, stems = find_lists(store, DET_FOLDER), frozenset(map(_stem, files))
    numbered = [title for title in lists if re.fullmatch(r"train_\d+", title)]
    listed = dict.fromkeys(path for title in numbered for path in lists.pop(title))
    train = [path for path in listed if _stem(path) in stems]
    return {"train": train, **lists} if train and "train" not in lists else lists


def find_lists(store: Store, folder: str, *, nested: bool = True) -> dict[str, list[str]]:
    """Return the stems of annotations by image set, from the lists in `folder` of each year.

    Titles are "train", or "VOC2007:train" if there are several years. VOC's lists of single
    classes ("cat_train") are excluded. Lines may have spaces, and suffixes of images or XML.
    nested: whether lists in subfolders count.
    """
    lists = find_list_files(store, folder, nested=nested)
    stems = frozenset(map(_stem, store.rows)) if lists else frozenset()
    return {
        title: [f"{root}Annotations/{stem}" for stem in _read_stems(store, path, stems)]
        for title, (root, path) in lists.items()
    }


def find_list_files(
    store: Store, folder: str, *, nested: bool = True
) -> dict[str, tuple[str, str]]:
    """Return, by image set, the folder of its year ("VOC2007/", or "") and the path of its list."""
    lists = {}
    for path in store.find_files("", ".txt"):
        year, contains, name = _split_at_folder(path, folder)
        if contains and (nested or "/" not in name):
            lists[year.rstrip("/"), name[: -len(".txt")]] = path
    years = {year for year, _ in lists}
    names = {name for _, name in lists}
    found_lists = {}
    for (year, name), path in lists.items():
        if "_" in name and name.rsplit("_", 1)[1] in names:
            continue
        title = f"{year}:{name}" if len(years) > 1 else name
        if len({PurePosixPath(each).name for each in years}) == len(years) > 1:
            title = f"{PurePosixPath(year).name}:{name}"
        found_lists[title.replace("+", "_")] = (f"{year}/" if year else "", path)  # + joins titles
    return found_lists


def _find_other_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Return other lists that are named like splits and list XML files of the store."""
    stems = frozenset(map(_stem, files))
    lists = {}
    for path in store.find_files("", ".txt"):
        title = PurePosixPath(path).stem
        if split_role(title):
            names = _read_stems(store, path, stems)
            if any(_stem(name) in stems for name in names):
                lists[title] = [f"Annotations/{name}" for name in names]
    return lists


def _split_at_folder(path: str, folder: str) -> tuple[str, bool, str]:
    """Return the path before and after `folder`, in any case, and whether the path contains it."""
    start = f"/{path}".lower().rfind(f"/{folder.lower()}/")
    if start < 0:
        return "", False, ""
    return path[:start], True, path[start + len(folder) + 1 :]


def _read_stems(store: Store, path: str, stems: frozenset[str]) -> list[str]:
    """Return the names in a list, without suffix and VOC's trailing "1" or "-1".

    stems: those of the store's files, to recognize names that end in numbers.
    """
    names = []
    for line in store.read_lines(path):
        words = line.split()
        if len(words) == 2 and all(map(has_image_suffix, words)):
            line = words[0]  # an image and its class map
        name = line.replace("\\", "/").lstrip("/").removeprefix("./")
        while _stem(name) not in stems and _FLAG.search(name):
            name = _FLAG.sub("", name)
        suffix = posixpath.splitext(name)[1]
        is_file = has_image_suffix(name) or suffix.lower() == ".xml"
        names.append(name[: -len(suffix)] if is_file else name)
    return names


def _stem(name: str) -> str:
    """Return a file name without the suffix of an image or XML, in Unicode's composed form."""
    base = posixpath.basename(name)
    stem, suffix = posixpath.splitext(base)
    return read_name(stem if has_image_suffix(base) or suffix.lower() == ".xml" else base)


def _group_by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """Group XML files by their stem in Unicode's composed form."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files:
        found[read_name(PurePosixPath(path).stem)].append(path)
    return found


def _resolve_missing(stems: Sequence[str], paths: Sequence[str], store: Store) -> list[str]:
    """Return the XML files of the listed `stems` once; missing ones are placed where most are."""
    prefixes = Counter(
        path.removesuffix(f"{below}.xml")
        for stem, path in zip(stems, paths, strict=True)
        if path in store and path.endswith(f"{(below := stem.partition('Annotations/')[2])}.xml")
    )
    prefix = prefixes.most_common(1)[0][0] if prefixes else None
    resolved = [
        path
        if path in store or prefix is None
        else f"{prefix}{stem.partition('Annotations/')[2]}.xml"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return list(dict.fromkeys(resolved))


def _find_xml(
    stem: str, by_stem: dict[str, list[str]], folders: frozenset[str], store: Store
) -> str:
    """Return the XML file of a listed stem ("VOC2007/Annotations/1"), or else one of its year.

    It may be in any folder of annotations. If there is none, or several, the path of no file.
    """
    expected = f"{stem}.xml"
    if expected in store:
        return expected
    root, _, below = stem.partition("Annotations/")
    parents = tuple(read_name(below).casefold().split("/"))[:-1]
    same_year = [path for path in by_stem.get(_stem(below), ()) if path.startswith(root)]
    ranks = {
        path: common_suffix_length(parents, tuple(path.casefold().split("/")[:-1]))
        for path in same_year
    }
    closest = [path for path in same_year if ranks[path] == max(ranks.values())]
    if len(closest) != 1:
        return expected
    is_elsewhere = parents and not ranks[closest[0]] and parents[-1] in folders
    return expected if is_elsewhere else closest[0]
