"""A few unreadable images never stop a run: replacements, messages, and the limit."""

import json
import os
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.cli.main import main
from resnets.config import AugmentSpec, ConfigError, DataSpec, EvalSpec, Recipe
from resnets.data import (
    DataError,
    FileSplit,
    TensorSplit,
    TrainStream,
    eval_batches,
    fit_preprocess,
    open_data,
    order,
)
from resnets.data.dataset.quarantine_list import QUARANTINE
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.files.folder import read_file
from resnets.models import catalog
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training

CPU = torch.device("cpu")
CLASSES = ("ant", "bee")
COUNT = 30  # images of each class
JITTER = AugmentSpec(crop="random-resized", flip=True)
FILES = {"in_memory": "never", "val_fraction": 0.0, "test_fraction": 0.0}


def write_images(folder: Path, count: int, shade: int, size: int = 20) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(shade)
    for number in range(count):
        pixels = random.integers(shade, shade + 60, (size, size + 4, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{ant,bee}, dark and bright, 30 each."""
    for shade, name in ((0, "ant"), (190, "bee")):
        write_images(tmp_path / "root" / name, COUNT, shade)
    return tmp_path / "root"


def spoil(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:120])
    return path


def stream_of(spec: DataSpec, batch_size: int = 8) -> TrainStream:
    train = open_data(spec).train
    preprocessor = fit_preprocess(train, replace(spec, normalize="imagenet"), 3)
    return TrainStream(train, spec, preprocessor, batch_size, 3, CPU)


def labels_by_shade(images: torch.Tensor) -> list[int]:
    return (images.mean((1, 2, 3)) > 0).long().tolist()


@pytest.mark.parametrize("kind", ["truncated", "empty", "pipe", "folder", "loop", "gone", "text"])
def test_an_unreadable_image_is_replaced_by_another(tree: Path, kind: str, caplog) -> None:
    spec = DataSpec(source=str(tree), size=16, augment=JITTER, **FILES)
    stream = stream_of(spec)
    path, row = tree / "ant" / "03.png", 3
    if kind == "truncated":
        spoil(path)
    else:
        path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "text":
        path.write_text("<html>404</html>")
    epochs = 3
    batches = list(islice(stream.batches(), epochs * 2 * COUNT // 8))
    ids = torch.cat([batch.ids for batch in batches]).numpy()
    planned = np.concatenate([order.positions(60, 3, 0, len(ids))[1]])
    epoch_of = order.positions(60, 3, 0, len(ids))[0]
    replaced = np.flatnonzero(planned == row)
    assert len(replaced) == epochs
    assert row not in ids
    assert (ids == planned).sum() == len(ids) - len(replaced)
    expected = [order.substitute(60, 3, int(epoch_of[place]), row, 0) for place in replaced]
    assert ids[replaced].tolist() == expected
    assert len(set(expected)) > 1  # another one each epoch
    for batch in batches:  # the label is that of the image that is there
        assert batch.targets.tolist() == labels_by_shade(batch.images)
        assert batch.targets.tolist() == (batch.ids >= COUNT).long().tolist()
    named = [record.message for record in caplog.records]
    assert len(named) == 1  # once, though it was due in each epoch
    assert named[0].startswith(f"{path}: cannot be read")
    assert list(stream.unreadable) == [row]


def test_replacements_are_the_same_whenever_a_batch_is_requested(tree: Path) -> None:
    for number in (2, 7, 11):
        spoil(tree / "bee" / f"{number:02}.png")
    spec = DataSpec(source=str(tree), size=16, augment=JITTER, max_unreadable=0.06, **FILES)
    whole = list(islice(stream_of(spec).batches(), 20))
    for start, workers in ((0, 1), (7, 3), (13, 2)):
        again = stream_of(replace(spec, workers=workers)).batches(start)
        for one, two in zip(whole[start:], again, strict=False):
            assert torch.equal(one.ids, two.ids)
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.targets, two.targets)


def test_a_replacement_that_is_broken_is_replaced_too(tree: Path) -> None:
    for number in range(5, COUNT):
        spoil(tree / "ant" / f"{number:02}.png")
        spoil(tree / "bee" / f"{number:02}.png")
    spec = DataSpec(source=str(tree), size=16, augment=JITTER, max_unreadable=0.9, **FILES)
    stream = stream_of(spec)
    for batch in islice(stream.batches(), 30):
        assert set((batch.ids % COUNT).tolist()) <= set(range(5))
        assert batch.targets.tolist() == labels_by_shade(batch.images)
    assert len(stream.unreadable) == 50


def test_too_many_stop_the_run_with_one_line(tree: Path) -> None:
    for number in (4, 8):
        spoil(tree / "ant" / f"{number:02}.png")
    spec = DataSpec(source=str(tree), size=16, augment=JITTER, **FILES)
    with pytest.raises(DataError) as caught:
        list(islice(stream_of(spec).batches(), 20))
    message = str(caught.value)
    assert "root, 60 images: 2 of them cannot be read" in message
    assert "data.max_unreadable = 0.01 allows 1" in message
    assert "ant/04.png" in message
    assert "ant/08.png" in message
    assert "`resnets data check`" in message
    assert "\n" not in message
    with pytest.raises(DataError, match=r"ant/0[48]\.png"):
        list(islice(stream_of(replace(spec, max_unreadable=0.0)).batches(), 20))


@pytest.mark.parametrize(
    ("total", "share", "most"),
    [(100, 0.0, 0), (10, 0.01, 1), (100, 0.29, 29), (1000, 0.01, 10), (2, 0.9, 1), (20, None, 19)],
)
def test_how_many_may_be_unreadable(total: int, share: float | None, most: int) -> None:
    unreadable = BadSamples("these", total, share)
    for row in range(most):
        unreadable.add(row, DataError(f"{row}.png: cannot be read"))
        unreadable.add(row, DataError(f"{row}.png: cannot be read"))
    assert len(unreadable) == most
    with pytest.raises(DataError):
        unreadable.add(most, DataError("last.png: cannot be read"))


@pytest.mark.parametrize("size", [None, 16])
def test_sets_in_memory_hold_the_readable_ones(tree: Path, size: int | None, caplog) -> None:
    whole = open_data(DataSpec(source=str(tree), size=size, val_fraction=0, test_fraction=0)).train
    assert isinstance(whole, TensorSplit)
    spoil(tree / "ant" / "00.png")  # the first header that is probed
    (tree / "bee" / "17.png").write_bytes(b"")
    spec = DataSpec(
        source=str(tree), size=size, val_fraction=0, test_fraction=0, max_unreadable=0.05, workers=1
    )
    split = open_data(spec).train
    assert isinstance(split, TensorSplit)
    readable = [row for row in range(60) if row not in (0, COUNT + 17)]
    assert torch.equal(split.images, whole.images[readable])
    assert torch.equal(split.labels, whole.labels[readable])
    assert len(caplog.records) == len(split.unreadable) == 2
    with pytest.raises(DataError, match=r"data\.max_unreadable = 0\.01"):
        open_data(replace(spec, max_unreadable=0.01))


@pytest.mark.parametrize("in_memory", ["never", "auto"])
def test_evaluation_excludes_what_it_cannot_read(tree: Path, in_memory: str, caplog) -> None:
    for number in (0, 1, 2, 3, 9):
        spoil(tree / "ant" / f"{number:02}.png")
    spec = DataSpec(source=str(tree), size=16, in_memory=in_memory, test_fraction=0.9)
    test = open_data(replace(spec, max_unreadable=0.4)).test()
    stored = open_data(replace(spec, max_unreadable=0.4, in_memory="never")).test()
    assert test is not None
    spoilt = {f"ant/{number:02}.png" for number in (0, 1, 2, 3, 9)} & set(stored.files.paths)
    preprocessor = fit_preprocess(test, replace(spec, normalize="imagenet"), 3)
    for _ in range(2):  # for the first time and again
        batches = list(eval_batches(test, preprocessor, 4, CPU))
        count = sum(len(batch) for batch in batches)
        assert count + len(test.unreadable) == len(stored)
        assert len(test.unreadable) == len(spoilt) > 1
        assert all(len(batch) for batch in batches)
        for batch in batches:
            assert batch.targets.tolist() == labels_by_shade(batch.images)
    names = [record.message.partition(": ")[0] for record in caplog.records]
    assert len(names) == len(set(names))


def test_a_set_that_cannot_be_read_at_all_is_an_error(tree: Path) -> None:
    preprocessor = stream_of(DataSpec(source=str(tree), size=16, **FILES)).preprocessor
    for path in tree.glob("*/*.png"):
        spoil(path)
    files = open_data(DataSpec(source=str(tree), size=16, **FILES, max_unreadable=0.5)).train
    assert isinstance(files, FileSplit)
    files = replace(files, unreadable=BadSamples(files.description, 60))
    with pytest.raises(DataError, match="60.*ant/00.png"):
        list(eval_batches(files, preprocessor, 8, CPU))


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (("pipe.png", "a pipe or device"), ("", "Is a directory"), ("no", "No such")):
        with pytest.raises(DataError, match=rf"cannot be read \({why}"):
            read_file(tmp_path / name)
    with pytest.raises(DataError, match="a pipe or device"):
        read_file(Path("/dev/zero"))


def small_recipe(tree: Path, **data) -> Recipe:
    return Recipe(
        name="small",
        model=replace(catalog.spec("cifar-resnet8"), num_classes=2),
        data=DataSpec(source=str(tree), size=16, augment=JITTER, **data),
        duration="2ep",
        batch_size=8,
        compile="off",
        precision="float32",
        eval=EvalSpec(every="1ep"),
    )


def test_a_run_continues_and_reports_unreadable_images(tree: Path, tmp_path: Path) -> None:
    splits = open_data(DataSpec(source=str(tree), in_memory="never"))
    bad = [Path(split.files.name(0)) for split in (splits.train, splits.val, splits.test())]
    for path in bad:
        spoil(path)
    recipe = small_recipe(tree, max_unreadable=0.05)
    result = run_training(recipe, tmp_path / "run", device="cpu", quiet=True)
    for name, path in zip(("train", "val", "test"), bad, strict=True):
        (message,) = result[name]["unreadable"]
        assert message.startswith(f"{path}: cannot be read")
    count = len(splits.test())
    assert result["test"]["examples"] == count - 1
    assert result["test"]["protocol"].endswith(f"{count} images, 1 unreadable skipped")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    rows = read_rows(tmp_path / "run")
    assert {row["unreadable"] for row in rows if row["kind"] == "val"} == {1}
    assert [row["unreadable"] for row in rows if row["kind"] == "train"][-1] == 1
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(path.name in report for path in bad)
    assert "Unreadable images" in report


def test_the_limit_ends_a_run_of_the_command_line(tree: Path, tmp_path: Path, capfd) -> None:
    for path in sorted(tree.glob("*/*.png"))[::3]:
        spoil(path)
    out = tmp_path / "run"
    settings = ["data.size=16", "data.in_memory=never", "eval.batch_size=16"]
    words = ["train", "digits", "--data", str(tree), "--out", str(out), "--device", "cpu"]
    code = main([*words, *(word for text in settings for word in ("--set", text))])
    assert code == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("resnets train: root, training share")
    assert "cannot be read, data.max_unreadable = 0.01 allows 1, among them" in last


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_quarantined_images_are_excluded_and_move_no_others(tree: Path, kind: str) -> None:
    source, named = tree, tree / QUARANTINE
    if kind == "tar":
        source, named = tree.with_suffix(".tar"), tree.parent / "list.txt"
        with tarfile.open(source, "w") as tar:
            tar.add(tree, "root")
    top = "root/" if kind == "tar" else ""
    spec = DataSpec(source=str(source), in_memory="never")
    before = open_data(spec)
    train, test = before.train.files, before.test().files
    listed = [train.paths[0], train.paths[5], test.paths[3]]
    assert all(path.startswith(f"{top}") for path in listed)
    lines = ["# a comment", "", *(f"{path}\twhy" for path in listed), f"{top}ant/none.png\r"]
    named.write_text("\n".join(lines))
    if kind == "tar":
        spec = replace(spec, quarantine=str(named))
    after = open_data(spec)
    assert list(after.train.files.paths) == [p for p in train.paths if p not in listed]
    assert list(after.test().files.paths) == [p for p in test.paths if p not in listed]
    assert after.train.description.endswith(f"{len(train) - 2} images (2 in quarantine)")
    assert len(after.val) == len(before.val)
    with pytest.raises(ConfigError, match=r"data\.quarantine.*gone\.txt"):
        open_data(replace(spec, quarantine=str(tree / "gone.txt")))


def test_a_set_all_of_which_is_in_quarantine(tree: Path) -> None:
    paths = [path.relative_to(tree).as_posix() for path in tree.glob("*/*.png")]
    (tree / QUARANTINE).write_text("\n".join(paths))
    with pytest.raises(DataError, match="all are in quarantine"):
        open_data(DataSpec(source=str(tree)))
