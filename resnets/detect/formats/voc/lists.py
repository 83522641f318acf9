"""VOC's image lists, and ImageNet's: which XML files each image set holds."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from resnets.data.layout.folder_names import role_within, split_role
from resnets.detect.data.values import read_name
from resnets.detect.images.names import common_end
from resnets.detect.images.store import Store, has_image_suffix

SET_FOLDER = "ImageSets/Main"
IMAGENET_FOLDER, DET_FOLDER = "ImageSets/CLS-LOC", "ImageSets/DET"
UNLISTED = "unlisted"  # title of XML files in no list, where no list is for training
_FLAG = re.compile(r"\s+-?\d+\Z")


def find_voc(store: Store) -> dict[str, list[str]]:
    """Image set -> its XML files; empty where the store has no XML.

    A listed image without XML keeps its place, so that the check can name it; a list none of
    whose images has one (VOC 2012's test set) is left out. Where lists are for validation and test
    only, the other XML files are a set of their own.
    """
    files = store.below("", ".xml")
    if not files:
        return {}
    if lists := image_lists(store, files):
        by_stem = _by_stem(files)
        known = frozenset(part for path in files for part in path.casefold().split("/")[:-1])
        found = {
            title: _resolved(stems, [_listed(stem, by_stem, known, store) for stem in stems], store)
            for title, stems in lists.items()
        }
        found = {title: paths for title, paths in found.items() if any(p in store for p in paths)}
        listed = {path for paths in found.values() for path in paths}
        others = [path for path in files if path not in listed]
        if found and others and not any(map(is_training, found)):
            found[UNLISTED] = others  # not to be trained on unless it is named
        return found
    parts = defaultdict(list)
    for path in files:
        folders = PurePosixPath(path).parts[:-1]
        parts[next((name for name in folders if split_role(name)), "")].append(path)
    return dict(parts)


def image_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Image set -> stems, from the lists where VOC has them, or from any called like splits."""
    return (
        find_lists(store, SET_FOLDER)
        or _imagenet_lists(store, files)
        or _det_lists(store, files)
        or find_lists(store, "ImageSets", nested=False)
        or _loose_lists(store, files)
    )


def _imagenet_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """ImageNet's: train_loc names the training images with boxes, train_cls all of them."""
    lists = find_lists(store, IMAGENET_FOLDER)
    loc, cls = lists.pop("train_loc", None), lists.pop("train_cls", None)
    if "train" in lists or not (loc or cls):
        return lists
    stems = frozenset(map(_stem, files))
    own = loc or [path for path in cls or () if _stem(path) in stems]
    return {"train": own, **lists}


def _det_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Those of ImageNet's detection set: train_1 to train_200 name images with and without a class.

    The training set is all images of these lists that have an XML file.
    """
    lists, stems = find_lists(store, DET_FOLDER), frozenset(map(_stem, files))
    numbered = [title for title in lists if re.fullmatch(r"train_\d+", title)]
    named = dict.fromkeys(path for title in numbered for path in lists.pop(title))
    train = [path for path in named if _stem(path) in stems]
    return {"train": train, **lists} if train and "train" not in lists else lists


def find_lists(store: Store, folder: str, *, nested: bool = True) -> dict[str, list[str]]:
    """Image set -> stems of the annotations it lists, from `folder` of each year, `nested` or not.

    Titles are "train", or "VOC2007:train" where there are several years. VOC's lists for single
    classes ("cat_train") are left out. Lines may hold spaces and suffixes, of images or of XML.
    """
    lists = list_files(store, folder, nested=nested)
    stems = frozenset(map(_stem, store.rows)) if lists else frozenset()
    return {
        title: [f"{root}Annotations/{stem}" for stem in _stems(store, path, stems)]
        for title, (root, path) in lists.items()
    }


def list_files(store: Store, folder: str, *, nested: bool = True) -> dict[str, tuple[str, str]]:
    """Image set -> folder of its year ("VOC2007/", or "") and path of its list; as `find_lists`."""
    lists = {}
    for path in store.below("", ".txt"):
        year, found, name = _around(path, folder)
        if found and (nested or "/" not in name):
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


def _loose_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Lists elsewhere that are called like splits, and name XML files of the store."""
    stems = frozenset(map(_stem, files))
    lists = {}
    for path in store.below("", ".txt"):
        title = PurePosixPath(path).stem
        if split_role(title):
            names = _stems(store, path, stems)
            if any(_stem(name) in stems for name in names):
                lists[title] = [f"Annotations/{name}" for name in names]
    return lists


def _around(path: str, folder: str) -> tuple[str, bool, str]:
    """What is before and after `folder` in a path, in whatever case, and whether it is in it."""
    place = f"/{path}".lower().rfind(f"/{folder.lower()}/")
    if place < 0:
        return "", False, ""
    return path[:place], True, path[place + len(folder) + 1 :]


def _stems(store: Store, path: str, stems: frozenset[str]) -> list[str]:
    """What the lines of a list name, without suffix and VOC's "1" or "-1" behind it.

    `stems`: those of the store's files, which tell a name that ends in numbers.
    """
    names = []
    for line in store.lines(path):
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
    """File name without the suffix of an image or XML, in Unicode's composed form."""
    base = posixpath.basename(name)
    stem, suffix = posixpath.splitext(base)
    return read_name(stem if has_image_suffix(base) or suffix.lower() == ".xml" else base)


def _by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """XML files by their stem, in Unicode's composed form."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files:
        found[read_name(PurePosixPath(path).stem)].append(path)
    return found


def _resolved(stems: Sequence[str], paths: Sequence[str], store: Store) -> list[str]:
    """The XML files of the listed `stems`, each once; those that are missing where most lie."""
    bases = Counter(
        path.removesuffix(f"{below}.xml")
        for stem, path in zip(stems, paths, strict=True)
        if path in store and path.endswith(f"{(below := stem.partition('Annotations/')[2])}.xml")
    )
    base = bases.most_common(1)[0][0] if bases else None
    found = [
        path if path in store or base is None else f"{base}{stem.partition('Annotations/')[2]}.xml"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return list(dict.fromkeys(found))


def _listed(stem: str, by_stem: dict[str, list[str]], folders: frozenset[str], store: Store) -> str:
    """The XML file of a listed `stem` ("VOC2007/Annotations/1"): there, or the one in its year.

    In whatever folder of annotations; a path of no file where there is none, or several.
    """
    wanted = f"{stem}.xml"
    if wanted in store:
        return wanted
    root, _, below = stem.partition("Annotations/")
    stated = tuple(read_name(below).casefold().split("/"))[:-1]
    inside = [path for path in by_stem.get(_stem(below), ()) if path.startswith(root)]
    ranks = {path: common_end(stated, tuple(path.casefold().split("/")[:-1])) for path in inside}
    found = [path for path in inside if ranks[path] == max(ranks.values())]
    if len(found) != 1:
        return wanted
    elsewhere = stated and not ranks[found[0]] and stated[-1] in folders
    return wanted if elsewhere else found[0]


def is_training(title: str) -> bool:
    """Whether an image set is for training, by its title ("VOC2007:train")."""
    return role_within(title.rpartition(":")[2]) in ("train", "trainval")
