"""What may be wrong with all annotations of a set at once: said in the check and in training."""

import pytest
from colored_sets import document, draw, opened, put

from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations

WIDTH, HEIGHT = 640, 480


def boxes(unit=(1.0, 1.0)):
    """Boxes (left, top, right, bottom) all over images of WIDTH x HEIGHT, in `unit`s of px."""
    across, down = unit
    return [
        (x / across, y / down, (x + 160) / across, (y + 120) / down)
        for x, y in ((0, 0), (480, 0), (480, 360), (240, 200), (0, 360), (100, 300), (470, 100))
    ]


def coco_set(root, unit=(1.0, 1.0), size=(WIDTH, HEIGHT), **changes):
    found = document({n: f"p{n}.png" for n in range(4)})
    entries = []
    for n, image in enumerate(found["images"]):
        image |= {"width": size[0], "height": size[1]}
        draw(root / f"p{n}.png", n, size=size)
        for left, top, right, bottom in boxes(unit):
            box = [left, top, right - left, bottom - top]
            entry = {"id": len(entries), "image_id": n + 1, "category_id": 1, "bbox": box}
            entries.append(entry | changes)
    put(root / "annotations.json", found | {"annotations": entries})
    return root


def voc_set(root, unit=(1.0, 1.0), size=(WIDTH, HEIGHT)):
    for n in range(4):
        draw(root / f"JPEGImages/p{n}.jpg", n, size=size)
        objects = ""
        for box in boxes(unit):
            values = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            corners = "".join(f"<{key}>{value:.3f}</{key}>" for key, value in values)
            objects += f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
        head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        text = f"<annotation><filename>p{n}.jpg</filename>{head}{objects}</annotation>"
        put(root / f"Annotations/p{n}.xml", text)
    return root


WRITERS = {"coco": coco_set, "voc": voc_set}


@pytest.mark.parametrize("form", WRITERS)
def test_boxes_of_other_units_are_warned_about(tmp_path, form):
    """In percent of the sides, or for images of half the size."""
    for name, unit, size in (
        ("percent", (WIDTH / 100, HEIGHT / 100), (WIDTH, HEIGHT)),
        ("enlarged", (1.0, 1.0), (2 * WIDTH, 2 * HEIGHT)),
    ):
        root = WRITERS[form](tmp_path / name, unit, size)
        report = check_annotations(str(root), "detect")
        assert len(report.warnings) == 1, name
        assert set(report.warnings) <= set(opened(root).summary.notes), name
    right = WRITERS[form](tmp_path / "right")
    assert not check_annotations(str(right), "detect").warnings


@pytest.mark.parametrize("form", WRITERS)
def test_boxes_in_shares_of_the_sides_are_refused(tmp_path, form):
    root = WRITERS[form](tmp_path, (WIDTH, HEIGHT))
    assert check_annotations(str(root), "detect").by_kind["no pixels"] == 28
    with pytest.raises(DataError):
        opened(root)
