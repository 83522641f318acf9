"""JSON of COCO's form that labels whole images, as iNaturalist's, is no detection set."""

import json

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.data.errors import DataError
from resnets.detect.check.run import annotation_tasks
from resnets.detect.loading.sources import find_source


def write(root, folders, fields=()):
    """Ten images of two classes; the JSON is iNaturalist's."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10):
        name = f"train/{'ab'[number % 2]}/{number}.png" if folders else f"train/{number}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(root / name)
        images.append({"id": number, "file_name": name, "width": 24, "height": 24})
        annotations.append({"id": number, "image_id": number, "category_id": number % 2})
        annotations[-1].update(fields)
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train2019.json").write_text(json.dumps(document))


@pytest.mark.parametrize("folders", [True, False])
def test_labels_of_whole_images(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", folders)
    assert annotation_tasks(str(tmp_path / "set")) == ()
    for task in ("detect", "instances", "localize"):
        with pytest.raises(DataError, match=r"train2019\.json"):
            find_source(str(tmp_path / "set"), task)
    assert main(["data", "check", "set"]) == (0 if folders else 1)
    output = capsys.readouterr().out
    assert "train2019.json" in output
    assert "bad annotations" not in output


def test_boxes_are_still_boxes(tmp_path):
    write(tmp_path / "set", False, {"bbox": [1, 1, 5, 5]})
    assert annotation_tasks(str(tmp_path / "set")) == ("instances",)
