"""Annotated sets: byte-identical images in two splits, and sets that change after training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from detect_sets import write_coco

from resnets.config import DataSpec, DetectSpec
from resnets.data import DataError
from resnets.detect.data.types import DetectionSplit
from resnets.detect.loading.sources import DetectionSplits, open_detection, open_set

SPEC = DataSpec(val_fraction=0.2, test_fraction=0.2)


def names(split: DetectionSplit | None) -> set[str]:
    assert split is not None
    return {Path(split.files.name(row)).name for row in range(len(split))}


def opened(root: Path, known: object = None, **changes: object) -> DetectionSplits:
    return open_detection(
        replace(SPEC, source=str(root), **changes), DetectSpec(), "detect", known, training=True
    )


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """train and test sets, of which one image is the same under another name."""
    write_coco(tmp_path, "train", [(40, 30)] * 10)
    write_coco(tmp_path, "test", [(40, 30)] * 4)
    shutil.copy(tmp_path / "train" / "train0001.png", tmp_path / "test" / "test0001.png")
    return tmp_path


def test_copies_under_other_names_are_refused_before_training(parted: Path) -> None:
    with pytest.raises(DataError, match=r"1.*test0001\.png.*train0001\.png"):
        opened(parted)
    open_detection(replace(SPEC, source=str(parted)))  # to look at, as other commands do


def test_copies_are_excluded_or_allowed(parted: Path) -> None:
    less = opened(parted, overlap="leave-out")
    assert "train0001.png" not in names(less.train) | names(less.val)
    assert len(less.train) + len(less.val) == 9
    assert len(less.test()) == 4
    more = opened(parted, overlap="allow")
    assert len(more.train) + len(more.val) == 10
    assert "1 of them byte-identical" in more.test().description


def test_images_keep_their_split_when_a_set_grows(tmp_path: Path) -> None:
    document = write_coco(tmp_path, "all", [(40, 30)] * 20)
    first = opened(tmp_path)
    split = [names(each) for each in (first.train, first.val, first.test())]
    assert all(split)
    extra = write_coco(tmp_path / "other", "more", [(40, 30)] * 6, seed=5)
    for image in extra["images"]:
        name = image["file_name"]
        shutil.copy(tmp_path / "other" / "more" / name, tmp_path / "all" / f"0{name}")
        document["images"].append({**image, "id": image["id"] + 100, "file_name": f"0{name}"})
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "annotations" / "instances_all.json").write_text(json.dumps(document))
    fresh = opened(tmp_path)
    again = opened(tmp_path, first.fingerprint)
    for before, one, two in zip(split, *map(_shares, (fresh, again)), strict=True):
        assert before <= one == two
    assert sum(each["added"] for each in again.changes.counts.values()) == 6


def _shares(splits: DetectionSplits) -> list[set[str]]:
    return [names(each) for each in (splits.train, splits.val, splits.test())]


def test_an_image_set_is_measured_without_what_was_trained_on(parted: Path) -> None:
    known = opened(parted, overlap="leave-out", val_fraction=0.0).fingerprint
    spec = replace(SPEC, source=str(parted))
    whole = open_set(spec, DetectSpec(), "detect", "test")
    assert whole is not None
    assert len(whole) == 4
    shutil.copy(parted / "train" / "train0002.png", parted / "test" / "test0002.png")
    seen = open_set(spec, DetectSpec(), "detect", "test", known)
    assert seen is not None
    assert len(seen) == 3
    assert "1 excluded because they were trained on" in seen.description
