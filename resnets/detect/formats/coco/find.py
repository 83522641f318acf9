"""Which JSON files of a set are COCO's, and of which image set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from resnets.data.errors import DataError
from resnets.detect.data.documents import parse_json
from resnets.detect.images.path_matching import is_in_drawing_folder
from resnets.detect.images.store import Store

KEYS = ("images", "annotations", "categories")
# Every entry of an object has one.
LOCATION_KEYS = ("bbox", "segmentation", "keypoints", "caption", "segments_info")
IMAGE_LABELS = (
    "its annotations have an image and a class alone, without boxes: labels of whole images, as of"
    " iNaturalist"
)
PLAIN_NAMES = ("_annotations.coco", "annotations", "instances", "coco", "labels", "result")
PLAIN_FOLDERS = ("annotations", "annotation", "labels", "json", "coco", "result")
# Prefixes of other files about the images of instances_<set>.json.
COMPANIONS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


def find_coco(store: Store) -> dict[str, str]:
    """Return the COCO JSON files by image set; empty if there are none.

    Files of the same name in several folders get the folder into their title ("cam1:train").
    Captions, key points and panoptic maps next to instances_*.json are skipped, since they are
    about the same images, and so are files in folders of drawings (`find_drawn_coco`).
    """
    files = [path for path in store.find_files("", ".json") if not is_in_drawing_folder(path)]
    official = {str(PurePosixPath(path).parent) for path in files if _is_official(path)}
    coco_files = []
    for path in files:
        lower_name = PurePosixPath(path).name.lower()
        if str(PurePosixPath(path).parent) in official and lower_name.startswith(COMPANIONS):
            continue
        data = store.read(path)
        if _has_image_labels(data, store.display_path(path)):
            continue
        if _is_official(path) or _looks_like_coco(data, store.display_path(path)):
            coco_files.append(path)
    return _assign_titles(coco_files)


def find_drawn_coco(store: Store) -> list[str]:
    """Return COCO JSON files in folders of drawings and predictions, which are not annotations."""
    return [
        path
        for path in store.find_files("", ".json")
        if is_in_drawing_folder(path)
        and _looks_like_coco(store.read(path), store.display_path(path))
    ]


def explain_no_coco(store: Store) -> str:
    """Return why the first damaged or incomplete JSON file is not COCO JSON, or ""."""
    if drawn := find_drawn_coco(store):
        return (
            f"{store.display_path(drawn[0])}: lies in a folder of drawings or predictions; move it"
        )
    if labels := find_image_label_files(store):
        return (
            f"{store.display_path(labels[0])}: {IMAGE_LABELS}; train a classifier: with images in a"
            " folder for each class, or with a labels.csv of path,label written from it"
        )
    for path in store.find_files("", ".json"):
        try:
            document = parse_json(store.read(path), store.display_path(path))
        except DataError as error:
            return str(error)
        missing = [key for key in KEYS if not isinstance(document, dict) or key not in document]
        if 0 < len(missing) < len(KEYS):
            return (
                f"{store.display_path(path)}: lacks COCO's {' and '.join(missing)}; it needs lists"
                f" called {', '.join(KEYS)}"
            )
    return ""


def find_image_label_files(store: Store) -> list[str]:
    """Return JSON files in COCO's form whose annotations label whole images (iNaturalist)."""
    return [
        path
        for path in store.find_files("", ".json")
        if _has_image_labels(store.read(path), store.display_path(path))
    ]


def _has_image_labels(data: bytes, where: str) -> bool:
    """Return whether every annotation has an image and a class, and none a box or outline."""
    if any(f'"{key}"'.encode() not in data for key in ("image_id", "category_id")) or any(
        f'"{key}"'.encode() in data for key in LOCATION_KEYS
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
    """Return whether it has COCO's lists; a damaged file that seems to is opened to be refused."""
    if b"\0" not in data[:4] and not all(f'"{key}"'.encode() in data for key in KEYS[:2]):
        return False  # without parsing: labelme files contain whole images
    try:
        document = parse_json(data, where)
    except DataError:
        return all(f'"{key}"'.encode() in data for key in KEYS[:2])
    return isinstance(document, dict) and all(key in document for key in KEYS)


def _assign_titles(paths: Sequence[str]) -> dict[str, str]:
    """Return each file by its title; equal titles get the folder as well, and then the path."""
    titles = [_title(path) for path in paths]
    for prefixes in (["/".join(_distinctive_folders(path)) for path in paths], paths):
        count = Counter(titles)
        titles = [
            f"{prefix}:{_title(path)}".removeprefix(":") if count[title] > 1 else title
            for path, title, prefix in zip(paths, titles, prefixes, strict=True)
        ]
    return dict(zip((title.replace("+", "_") for title in titles), paths, strict=True))


def _title(path: str) -> str:
    """Return "train2017" for annotations/instances_train2017.json, "train" for train/coco.json."""
    stem = PurePosixPath(path).stem.replace("+", "_")  # it joins titles
    if stem.lower() in PLAIN_NAMES:
        return next(reversed(_distinctive_folders(path)), "").replace("+", "_")
    return stem.removeprefix("instances_").removesuffix("_annotations").removeprefix("annotations_")


def _distinctive_folders(path: str) -> list[str]:
    """Return the folders of a path without those with usual names of annotation folders."""
    return [part for part in PurePosixPath(path).parts[:-1] if part.lower() not in PLAIN_FOLDERS]
