"""Which JSON files of a set are COCO's, and of which image set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from resnets.data.errors import DataError
from resnets.detect.data.documents import parse_json
from resnets.detect.images.names import is_drawn
from resnets.detect.images.store import Store

KEYS = ("images", "annotations", "categories")
PLACED = ("bbox", "segmentation", "keypoints", "caption", "segments_info")  # one of each entry's
IMAGE_LABELS = (
    "its annotations hold an image and a class alone, without boxes: labels of whole images, as of"
    " iNaturalist"
)
PLAIN_NAMES = ("_annotations.coco", "annotations", "instances", "coco", "labels", "result")
PLAIN_FOLDERS = ("annotations", "annotation", "labels", "json", "coco", "result")
# Files beside instances_<set>.json that are about the same images.
COMPANIONS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


def find_coco(store: Store) -> dict[str, str]:
    """Image set -> JSON file that describes it; empty where the store has no COCO JSON.

    Sets of one name in several folders have them in their titles ("cam1:train"). Captions, key
    points and panoptic maps beside instances_*.json are of the same images, and not looked at; nor
    are files in folders of drawings (`drawn_coco`).
    """
    files = [path for path in store.below("", ".json") if not is_drawn(path)]
    official = {_folder(path) for path in files if _is_official(path)}
    found = []
    for path in files:
        name = PurePosixPath(path).name.lower()
        if _folder(path) in official and name.startswith(COMPANIONS):
            continue
        data = store.read(path)
        if _labels_images(data, store.called(path)):
            continue
        if _is_official(path) or _looks_like_coco(data, store.called(path)):
            found.append(path)
    return _titled(found)


def drawn_coco(store: Store) -> list[str]:
    """COCO JSON in folders of drawings and predictions, which is no annotation."""
    return [
        path
        for path in store.below("", ".json")
        if is_drawn(path) and _looks_like_coco(store.read(path), store.called(path))
    ]


def why_no_coco(store: Store) -> str:
    """Why the first JSON that is damaged, or has some of COCO's lists, is none; "" without any."""
    if drawn := drawn_coco(store):
        return f"{store.called(drawn[0])}: lies in a folder of drawings or predictions; move it"
    if labels := image_labels(store):
        return (
            f"{store.called(labels[0])}: {IMAGE_LABELS}; train a classifier: with images in a"
            " folder for each class, or with a labels.csv of path,label written from it"
        )
    for path in store.below("", ".json"):
        try:
            document = parse_json(store.read(path), store.called(path))
        except DataError as error:
            return str(error)
        lacking = [key for key in KEYS if not isinstance(document, dict) or key not in document]
        if 0 < len(lacking) < len(KEYS):
            return (
                f"{store.called(path)}: lacks COCO's {' and '.join(lacking)}; it needs lists"
                f" called {', '.join(KEYS)}"
            )
    return ""


def image_labels(store: Store) -> list[str]:
    """JSON of COCO's form whose annotations label whole images, as iNaturalist's do."""
    return [
        path
        for path in store.below("", ".json")
        if _labels_images(store.read(path), store.called(path))
    ]


def _labels_images(data: bytes, where: str) -> bool:
    """Whether no entry has a box or an outline, but each an image and a class."""
    if any(f'"{key}"'.encode() not in data for key in ("image_id", "category_id")) or any(
        f'"{key}"'.encode() in data for key in PLACED
    ):
        return False
    try:
        document = parse_json(data, where)
    except DataError:
        return False
    entries = document.get("annotations") if isinstance(document, dict) else None
    return bool(entries) and isinstance(entries, list) and all(
        isinstance(each, dict) and {"image_id", "category_id"} <= each.keys() for each in entries
    )  # fmt: skip


def _is_official(path: str) -> bool:
    return PurePosixPath(path).name.lower().startswith("instances_")


def _looks_like_coco(data: bytes, where: str) -> bool:
    """Whether it has COCO's lists; a damaged file that seems to is opened, and then named."""
    if b"\0" not in data[:4] and not all(f'"{key}"'.encode() in data for key in KEYS[:2]):
        return False  # at a glance: labelme's files hold whole images
    try:
        document = parse_json(data, where)
    except DataError:
        return all(f'"{key}"'.encode() in data for key in KEYS[:2])
    return isinstance(document, dict) and all(key in document for key in KEYS)


def _titled(paths: Sequence[str]) -> dict[str, str]:
    """Each file by its title; those of one title by their folder too, and at last by their path."""
    titles = [_title(path) for path in paths]
    for prefixes in (["/".join(_telling(path)) for path in paths], paths):
        count = Counter(titles)
        titles = [
            f"{prefix}:{_title(path)}".removeprefix(":") if count[title] > 1 else title
            for path, title, prefix in zip(paths, titles, prefixes, strict=True)
        ]
    return dict(zip((title.replace("+", "_") for title in titles), paths, strict=True))


def _title(path: str) -> str:
    """ "train2017" of annotations/instances_train2017.json, "train" of train/annotations.json."""
    stem = PurePosixPath(path).stem.replace("+", "_")  # it joins titles
    if stem.lower() in PLAIN_NAMES:
        return next(reversed(_telling(path)), "").replace("+", "_")
    return stem.removeprefix("instances_").removesuffix("_annotations").removeprefix("annotations_")


def _telling(path: str) -> list[str]:
    """The folders of a file that are called otherwise than where annotations lie."""
    return [part for part in PurePosixPath(path).parts[:-1] if part.lower() not in PLAIN_FOLDERS]


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)
