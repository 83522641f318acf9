"""Class maps that cannot be read, and palettes that contradict each other or the stated colors."""

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations
from resnets.detect.data.class_maps import ClassMap, Coding
from resnets.detect.images.store import open_store
from resnets.detect.loading.sources import open_detection

NAMES = ("background", "cell", "dot")
COLORS = ((0, 0, 0), (200, 30, 30), (30, 30, 200))
LABELMAP = "".join(f"{n}:{r},{g},{b}::\n" for n, (r, g, b) in zip(NAMES, COLORS, strict=True))


def truth(number):
    values = np.zeros((30, 40), np.uint8)
    values[5:20, 8:30] = 1
    values[22:26, number : number + 6] = 2
    return values


def paletted(number, order):
    """Map `number` with class k as number order[k] of its palette."""
    flat = np.zeros((256, 3), np.uint8)
    flat[list(order)] = COLORS
    made = Image.fromarray(np.array(order, np.uint8)[truth(number)], "P")
    made.putpalette(flat.ravel().tolist())
    return made


def with_alpha(number):
    values = truth(number)
    return Image.fromarray(np.dstack([np.zeros_like(values)] * 3 + [values]))


def write_set(root, maps, names="background\ncell\ndot\n", file="classes.txt"):
    for number, made in enumerate(maps):
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(root / f"images/p{number}.jpg")
        made.save(root / f"masks/p{number}.png")
    (root / file).write_text(names)
    return str(root)


def opened(root, **fields):
    data = DataSpec(source=root, val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields), "segment")


def cut(root, name):
    path = root / "masks" / name
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("bad", [1, 4])
@pytest.mark.parametrize("how", ["cut", "alpha"])
def test_maps_that_cannot_be_read_fail_the_check_and_training(tmp_path, how, bad):
    maps = [Image.fromarray(truth(number)) for number in range(4)]
    if how == "alpha":
        maps[:bad] = [with_alpha(number) for number in range(bad)]
    root = write_set(tmp_path / "set", maps)
    if how == "cut":
        for number in range(bad):
            cut(tmp_path / "set", f"p{number}.png")
    report = check_annotations(root, "segment")
    assert {each.kind for each in report.problems} <= {"mask"}
    assert len({each.where for each in report.problems}) == len(report.problems) == bad
    assert main(["data", "check", root, "--out", str(tmp_path / "out")]) == 1
    with pytest.raises(DataError):
        opened(root)
    if bad < 4:
        assert len(opened(root, skip_invalid=True).train) == 4 - bad


def test_sorted_palettes_are_read_and_counted_by_the_stated_colors(tmp_path):
    maps = [paletted(number, (2, 0, 1) if number % 2 else (0, 1, 2)) for number in range(4)]
    root = write_set(tmp_path, maps, LABELMAP, "labelmap.txt")
    splits = opened(root)
    for number, target in enumerate(splits.train.targets):
        assert np.array_equal(target.semantic.read(), truth(number))
    report = check_annotations(root, "segment")
    assert not report.problems
    assert not report.warnings
    shares = [note for note in report.notes if note.startswith("class maps (4")]
    assert [shares[0].index(name) for name in NAMES] == sorted(map(shares[0].index, NAMES))


def test_palettes_that_contradict_the_stated_colors_are_refused(tmp_path):
    names = LABELMAP.replace("30,30,200", "1,2,3")  # the color of dots is stated wrongly
    root = write_set(tmp_path, [paletted(n, (2, 0, 1)) for n in range(4)], names, "labelmap.txt")
    assert check_annotations(root, "segment").by_kind == {"class maps": 1}
    with pytest.raises(DataError):
        opened(root)


def test_palettes_of_other_colors_than_stated_are_warned_about(tmp_path):
    names = "background:9,9,9::\ncell:8,8,8::\ndot:7,7,7::\n"
    root = write_set(tmp_path, [paletted(n, (0, 1, 2)) for n in range(4)], names, "labelmap.txt")
    assert len(check_annotations(root, "segment").warnings) == 1
    assert any("palettes" in note for note in opened(root).summary.notes)


def test_palettes_that_differ_from_map_to_map_are_warned_about(tmp_path, capsys):
    orders = [(0, 1, 2), (2, 0, 1), (0, 1, 2), (1, 2, 0)]
    root = write_set(tmp_path / "set", [paletted(n, order) for n, order in enumerate(orders)])
    report = check_annotations(root, "segment")
    assert len(report.warnings) == 1
    assert any("palettes" in note for note in opened(root).summary.notes)
    assert main(["data", "check", root, "--out", str(tmp_path / "out")]) == 0
    assert "WARNING" in capsys.readouterr().out
    (tmp_path / "full" / "report.html").mkdir(parents=True)  # which cannot be written
    assert main(["data", "check", root, "--out", str(tmp_path / "full")]) == 1
    assert "WARNING" in capsys.readouterr().out
    alike = write_set(tmp_path / "alike", [paletted(n, (2, 0, 1)) for n in range(4)])
    assert not check_annotations(alike, "segment").warnings


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {"format": "JPEG", "quality": 95}), ("webp", {"format": "WEBP", "quality": 90})],
)
def test_maps_of_a_format_that_changes_values_are_problems(tmp_path, suffix, options):
    """Also where each value happens to be that of a class, as in maps of one value."""
    maps = [Image.fromarray(truth(number)) for number in range(3)]
    root = write_set(tmp_path / "set", maps)
    (tmp_path / "set/masks/p1.png").unlink()
    path = tmp_path / f"set/masks/p1.{suffix}"
    Image.fromarray(np.zeros((30, 40), np.uint8)).convert("RGB").save(path, **options)
    report = check_annotations(root, "segment")
    assert [(each.kind, each.where) for each in report.problems] == [("lossy mask", str(path))]
    with pytest.raises(DataError, match="export PNG"):
        opened(root)
    assert len(opened(root, skip_invalid=True).train) == 2
    split = ClassMap(open_store(root).take([f"masks/p1.{suffix}"]), 0, Coding("ids", {0: 0}))
    with pytest.raises(DataError):
        split.read()


def test_lossless_webp_maps_are_read(tmp_path):
    root = write_set(tmp_path / "set", [Image.fromarray(truth(number)) for number in range(3)])
    path = tmp_path / "set/masks/p1.webp"
    with Image.open(tmp_path / "set/masks/p1.png") as stored:
        stored.convert("RGB").save(path, lossless=True)
    (tmp_path / "set/masks/p1.png").unlink()
    assert not check_annotations(root, "segment").problems
    assert np.array_equal(opened(root).train.targets[1].semantic.read(), truth(1))


def warned(root):
    report = check_annotations(root, "segment")
    assert not report.problems
    return report.warnings


def test_a_first_class_that_may_be_no_class_is_warned_about(tmp_path):
    maps = [Image.fromarray(truth(number)) for number in range(3)]
    (warning,) = warned(write_set(tmp_path / "off", maps, "road\ncar\ntree\n"))
    assert "0 is road, and 7" in warning
    assert not warned(write_set(tmp_path / "right", maps, "Background\ncar\ntree\n"))


def test_values_that_smooth_resizing_left_are_warned_about(tmp_path):
    names = "background\nroad\ncar\ntree\nperson\n"
    large = [np.kron(truth(n) * 2, np.ones((3, 3), np.uint8)) for n in range(3)]
    maps = [Image.fromarray(np.roll(each, 1, (0, 1))) for each in large]
    smooth = [made.resize((40, 30), Image.Resampling.BILINEAR) for made in maps]
    (warning,) = warned(write_set(tmp_path / "smooth", smooth, names))
    assert "1 road, 3 tree" in warning
    nearest = [made.resize((40, 30), Image.Resampling.NEAREST) for made in maps]
    assert not warned(write_set(tmp_path / "nearest", nearest, names))


def test_pages_of_images_and_class_maps_that_are_not_read_are_reported(tmp_path):
    maps = [Image.fromarray(truth(number)) for number in range(3)]
    root = write_set(tmp_path, maps)
    pages = [Image.fromarray(truth(number)).convert("RGB") for number in range(2)]
    pages[0].save(tmp_path / "images/p0.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "images/p0.jpg").unlink()
    assert any("p0.tif with 2" in note for note in opened(root).summary.notes)
    (tmp_path / "masks/p1.png").unlink()
    map_pages = [Image.fromarray(truth(number)) for number in range(2)]
    map_pages[0].save(tmp_path / "masks/p1.tif", save_all=True, append_images=map_pages[1:])
    assert any("2 of " in note and "have more" in note for note in opened(root).summary.notes)
    assert any("p1.tif" in each for each in check_annotations(root, "segment").warnings)
