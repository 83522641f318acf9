"""Settings that evaluation refuses are refused before training; ignored objects are counted."""

import json

import numpy as np
import pytest
from PIL import Image

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.detect.loading.sources import find_source, open_detection
from resnets.detect.models.build import check_recipe
from resnets.recipes import RECIPES

SIZE = (24, 32)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("segment", {"test_sizes": (160,)}),
        ("segment", {"test_sizes": (160, 200)}),
        ("segment", {"refine": True}),
        ("segment", {"train_crop": 224}),
        ("localize", {"refine": True}),
        ("detect", {"train_crop": 224}),
    ],
)
def test_what_only_other_tasks_have(task, fields):
    recipe = RECIPES[task]()
    check_recipe(recipe)
    with pytest.raises(ConfigError, match=r"^detect\."):
        check_recipe(_with(recipe, fields))


def test_one_size_is_not_a_pyramid_of_images():
    with pytest.raises(ConfigError, match="test_sizes"):
        check_recipe(_with(RECIPES["detect"](), {"test_sizes": (160,)}))
    check_recipe(_with(RECIPES["detect"](), {"test_sizes": (160, 200)}))


def _with(recipe, fields):
    import dataclasses

    return dataclasses.replace(recipe, detect=dataclasses.replace(recipe.detect, **fields))


def write(root, objects, **of_image):
    (root / "images").mkdir(parents=True)
    images = []
    for number in range(3):
        pixels = np.full((*SIZE, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(root / f"images/{number}.png")
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": 32, "height": 24, **of_image}
        )
    annotations = [
        {"id": len(objects) * image + n, "image_id": image, "category_id": 1, **each}
        for image in range(3)
        for n, each in enumerate(objects)
    ]
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "disc"}],
    }
    (root / "annotations.json").write_text(json.dumps(document))


def opened(root, task, **fields):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields), task)


OUTLINED = {"bbox": [2, 2, 6, 6], "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
BOX_ONLY = {"bbox": [5, 5, 10, 10]}


def test_pixels_of_objects_with_a_box_only_are_not_background(tmp_path):
    write(tmp_path, [OUTLINED, BOX_ONLY])
    splits = opened(tmp_path, "segment", skip_invalid=True)
    expected = np.zeros(SIZE, np.uint8)
    expected[5:15, 5:15] = 255
    expected[2:8, 2:8] = 1  # what is known lies on top
    assert np.array_equal(splits.train.targets[0].semantic.read(), expected)
    assert any("ignored" in note for note in splits.summary.notes)


def test_an_image_with_an_object_of_no_place_is_excluded_from_class_maps(tmp_path):
    write(tmp_path, [OUTLINED])
    document = json.loads((tmp_path / "annotations.json").read_text())
    document["annotations"].append({"id": 99, "image_id": 0, "category_id": 1, "bbox": "?"})
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    assert len(opened(tmp_path, "segment", skip_invalid=True).train) == 2


def test_difficult_objects_are_counted(tmp_path):
    write(tmp_path, [OUTLINED, {**BOX_ONLY, "difficult": 1}])
    notes = opened(tmp_path, "detect").summary.notes
    assert any(note.startswith("all: 3 objects are marked difficult") for note in notes)
    kept = opened(tmp_path, "detect", keep_difficult=True).summary.notes
    assert not any("difficult" in note for note in kept)


def test_rotated_boxes_are_counted(tmp_path):
    rotated = {**BOX_ONLY, "attributes": {"rotation": 37.5}}
    write(tmp_path, [OUTLINED, rotated, {**BOX_ONLY, "attributes": {"rotation": 0.0}}])
    source = find_source(str(tmp_path), "detect")
    notes = source.load(source.titles[0]).notes
    assert any("3 boxes have a rotation" in note for note in notes)


def test_figures_of_federated_annotations_say_so(tmp_path):
    write(tmp_path / "lvis", [OUTLINED], neg_category_ids=[1], not_exhaustive_category_ids=[])
    write(tmp_path / "coco", [OUTLINED])
    assert "federated" in opened(tmp_path / "lvis", "detect").train.description
    assert "federated" not in opened(tmp_path / "coco", "detect").train.description


FOREIGN = {
    "VIA's JSON": (".json", {"_via_settings": {}, "_via_img_metadata": {}}),
    "VoTT's JSON": (".json", {"visitedFrames": {}, "frames": {}}),
    "CreateML's JSON": (".json", [{"image": "a.png", "annotations": [{"coordinates": {}}]}]),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_other_tools_are_named(tmp_path, form):
    from resnets.data.errors import DataError

    suffix, document = FOREIGN[form]
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    (tmp_path / f"export{suffix}").write_text(json.dumps(document))
    with pytest.raises(DataError, match=form):
        find_source(str(tmp_path), "detect")
