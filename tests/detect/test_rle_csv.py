"""CSV of run-length encoded masks: read as outlines, or refused with the line."""

import numpy as np
import pytest
from PIL import Image

from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations
from resnets.detect.data.masks import render_masks
from resnets.detect.loading.sources import find_source, open_detection

HEIGHT, WIDTH = 24, 32


def mask(number):
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[4 : 12 + number, 6:20] = 1
    drawn[8, 10] = 0  # several runs in a column
    return drawn


def run_lengths(drawn):
    """Kaggle's: starts from 1, down the columns."""
    flat = np.concatenate(([0], drawn.T.reshape(-1), [0])).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return " ".join(f"{a + 1} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True))


def write_set(root, rows, header="ImageId,ClassId,EncodedPixels"):
    (root / "train_images").mkdir(parents=True)
    for number in range(4):
        pixels = np.full((HEIGHT, WIDTH, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(root / f"train_images/p{number}.png")
    (root / "train.csv").write_text("\n".join((header, *rows)) + "\n")
    (root / "sample_submission.csv").write_text(f"{header}\np0.png,1,1 1\n")


def opened(root, task="instances"):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(), task)


def rows(names="p{}.png"):
    return [f"{names.format(n)},{1 + n % 2},{run_lengths(mask(n))}" for n in range(3)]


@pytest.mark.parametrize("names", ["p{}.png", "p{}"])
def test_masks_of_several_classes(tmp_path, names):
    write_set(tmp_path, rows(names))
    splits = opened(tmp_path)
    assert splits.classes == ("1", "2")
    for number, target in enumerate(splits.train.targets):
        (drawn,) = render_masks(target.masks, (HEIGHT, WIDTH), (HEIGHT, WIDTH))
        assert np.array_equal(drawn, mask(number))
        assert target.boxes.tolist() == [[6, 4, 20, 12 + number]]
    assert any("without a row" in note for note in _notes(tmp_path))


def _notes(root):
    source = find_source(str(root), "instances")
    return source.load(source.titles[0]).notes


def test_class_maps_are_drawn_from_them(tmp_path):
    write_set(tmp_path, [*rows(), "p3.png,1,"])
    split = opened(tmp_path, "segment").train
    assert split.classes == ("background", "1", "2")
    assert np.array_equal(split.targets[1].semantic.read(), 2 * mask(1))
    assert not split.targets[3].semantic.read().any()


def test_joined_names_and_a_single_class(tmp_path):
    joined = [f"p{n}.png_{1 + n % 2},{run_lengths(mask(n))}" for n in range(3)]
    write_set(tmp_path / "a", joined, "ImageId_ClassId,EncodedPixels")
    assert opened(tmp_path / "a").classes == ("1", "2")
    single = [f"p{n},{run_lengths(mask(n))}" for n in range(3)]
    write_set(tmp_path / "b", single, "img_id,rle")
    assert opened(tmp_path / "b").classes == ("object",)


@pytest.mark.parametrize("text", ["1 2 3", "0 4", "1 9 4 9", "a b", f"1 {HEIGHT * WIDTH + 1}"])
def test_run_lengths_that_are_none_are_refused_by_line(tmp_path, text):
    write_set(tmp_path, [*rows(), f"p3.png,1,{text}"])
    with pytest.raises(DataError, match="line 5: "):
        opened(tmp_path)


def along_rows(drawn):
    flat = np.concatenate(([0], drawn.reshape(-1), [0])).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return " ".join(f"{a + 1} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True))


def test_runs_along_rows_are_refused_until_the_order_is_stated(tmp_path):
    written = [f"p{n},{along_rows(mask(n))},cell" for n in range(3)]
    write_set(tmp_path, written, "id,annotation,cell_type")
    with pytest.raises(DataError, match="detect.format=rle-rows"):
        opened(tmp_path)
    report = check_annotations(str(tmp_path), "instances", detect=DetectSpec(format="rle-rows"))
    assert not report.problems
    assert any("'annotation'" in note for note in report.notes)
    part = find_source(str(tmp_path), "instances", DetectSpec(format="rle-rows")).load("train")
    for number, image in enumerate(part.images):
        assert image.objects[0].box == (6, 4, 20, 12 + number)
        (drawn,) = render_masks([image.objects[0].segmentation], (24, 32), (24, 32))
        assert np.array_equal(drawn, mask(number))


def test_square_images_do_not_tell_the_order(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "WIDTH", HEIGHT)
    write_set(tmp_path, rows())
    assert any("rle-rows" in note for note in _notes(tmp_path))
    source = find_source(str(tmp_path), "instances", DetectSpec(format="rle-columns"))
    assert not any("rle-rows" in note for note in source.load("train").notes)
