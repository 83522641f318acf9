"""Training and evaluation streams: a batch is the same whenever and however it is read."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from resnets.config import AugmentSpec, DataSpec
from resnets.data import (
    Batch,
    DataError,
    FileSplit,
    TensorSplit,
    TrainStream,
    eval_batches,
    fit_preprocess,
    open_data,
)

CPU = torch.device("cpu")
JITTER = AugmentSpec(crop="scale-jitter", scale=(40, 60), flip=True, pca_color=0.1)
RESIZED = AugmentSpec(crop="random-resized", scale=(0.35, 1.0), flip=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 JPEGs of varied size in two classes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(15):
            small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
            size = (60 + 5 * number, 50 + 3 * number)
            small.resize(size).save(root / name / f"{number}.jpg")
    return str(root)


def stream(spec: DataSpec, batch_size: int = 8, seed: int = 4, **options) -> TrainStream:
    train = open_data(spec).train
    preprocessor = fit_preprocess(train, spec, train.channels)
    return TrainStream(train, spec, preprocessor, batch_size, seed, CPU, **options)


def equal(one: Batch, two: Batch) -> bool:
    pairs = zip((one.images, one.targets, one.ids), (two.images, two.targets, two.ids), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def specs(photos: str) -> Iterator[DataSpec]:
    base = DataSpec(source=photos, size=32, val_fraction=0, test_fraction=0)
    yield DataSpec(augment=AugmentSpec(crop="pad", pad=2, flip=True))
    yield replace(DataSpec(), augment=replace(RESIZED, scale=(0.5, 1.0)))
    yield replace(base, augment=JITTER)
    yield replace(base, augment=RESIZED)
    padded = AugmentSpec(crop="pad", flip=True)
    yield replace(base, augment=padded, in_memory="never", balance="sqrt")


@pytest.mark.parametrize("case", range(5))
def test_batch_k_is_the_same_whenever_and_however_it_is_read(photos: str, case: int) -> None:
    spec = list(specs(photos))[case]
    whole = list(islice(stream(spec).batches(), 9))
    for workers in (1, 3):
        again = stream(replace(spec, workers=workers))
        for start in (0, 5, 8):
            assert equal(next(again.batches(start)), whole[start])
        later = list(islice(again.batches(3), 4))
        assert all(equal(*pair) for pair in zip(later, whole[3:7], strict=True))
    assert not equal(next(stream(spec, seed=5).batches()), whole[0])
    assert len({len(batch) for batch in whole}) == 1


def test_an_epoch_holds_each_image_once_with_its_label(photos: str) -> None:
    spec = DataSpec(source=photos, size=32, val_fraction=0, test_fraction=0, augment=RESIZED)
    train = stream(spec, batch_size=4)
    batches = list(islice(train.batches(), 15))  # 60 = two epochs of 30; batch 7 straddles both
    ids = torch.cat([batch.ids for batch in batches])
    assert sorted(ids[:30]) == sorted(ids[30:]) == list(range(30))
    targets = torch.cat([batch.targets for batch in batches])
    assert torch.equal(targets, train.split.labels[ids])
    images = {id_: [] for id_ in range(30)}
    for batch in batches:
        for id_, image in zip(batch.ids.tolist(), batch.images, strict=True):
            images[id_].append(image)
    assert not any(torch.equal(one, two) for one, two in images.values())


def test_files_and_memory_give_the_same_batches(photos: str) -> None:
    """One path decodes ahead with threads, the other gathers from a tensor."""
    spec = DataSpec(source=photos, size=32, augment=AugmentSpec(crop="pad", flip=True))
    memory, files = stream(spec), stream(replace(spec, in_memory="never"))
    assert isinstance(memory.split, TensorSplit)
    assert isinstance(files.split, FileSplit)
    for one, two in islice(zip(memory.batches(2), files.batches(2), strict=True), 4):
        assert equal(one, two)


def test_memory_format_is_chosen() -> None:
    spec = DataSpec(augment=AugmentSpec(crop="pad"))
    train = open_data(spec).train
    preprocessor = fit_preprocess(train, spec, 3)  # a grey set for an RGB net
    for last in (True, False):
        batch = next(TrainStream(train, spec, preprocessor, 8, 0, CPU, last).batches())
        assert batch.images.shape == (8, 3, 16, 16)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous() != last
        assert batch.images.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_evaluation_sees_each_image_once_as_prediction_does(photos: str, in_memory: str) -> None:
    spec = DataSpec(source=photos, size=32, resize=40, in_memory=in_memory)
    splits = open_data(spec)
    preprocessor = fit_preprocess(splits.train, spec, 3)
    test = splits.test()
    batches = list(eval_batches(test, preprocessor, 4, CPU))
    assert [len(batch) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat([batch.ids for batch in batches]), torch.arange(6))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), test.labels)
    files = open_data(replace(spec, in_memory="never")).test().files
    wanted = preprocessor([files.name(row) for row in range(6)])
    assert_close(torch.cat([batch.images for batch in batches]), wanted, rtol=0, atol=0)


def test_a_broken_image_is_named_when_its_batch_is_due(photos: str, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "broken")
    whole = DataSpec(source=str(root), size=32, val_fraction=0, test_fraction=0, augment=RESIZED)
    train = stream(replace(whole, max_unreadable=0))
    path = root / "dog" / "7.jpg"
    path.write_bytes(path.read_bytes()[:300])
    broken = train.split.files.paths.index("dog/7.jpg")
    batches = train.batches()
    seen = []
    with pytest.raises(DataError, match=r"dog/7\.jpg"):
        seen.extend(batch.ids for batch in islice(batches, 5))
    assert broken not in torch.cat(seen)
    path.unlink()
    with pytest.raises(DataError, match=r"dog/7\.jpg"):
        list(eval_batches(train.split, train.preprocessor, 8, CPU))


def test_threads_end_with_the_stream(photos: str) -> None:
    spec = DataSpec(source=photos, size=32, augment=JITTER, workers=3)
    before = set(threading.enumerate())
    batches = stream(spec).batches()
    next(batches)
    begun = set(threading.enumerate()) - before
    assert any(thread.name.startswith("decode") for thread in begun)
    batches.close()
    for thread in begun:
        thread.join(60)
        assert not thread.is_alive()


def test_imagenette_tar_streams_photographs(shared_data: Path) -> None:
    spec = DataSpec(
        source=str(shared_data / "imagenette160.tar"),
        size=64,
        normalize="imagenet",
        augment=replace(JITTER, scale=(64, 120)),
        in_memory="never",
    )
    splits = open_data(spec)
    assert (len(splits.train), len(splits.val)) == (2885, 315)
    assert splits.classes[0] == "n01440764"
    train = TrainStream(splits.train, spec, fit_preprocess(splits.train, spec, 3), 32, 0, CPU)
    batch = next(train.batches(7))
    assert batch.images.shape == (32, 3, 64, 64)
    assert batch.images.mean().abs() < 0.5
    assert 0.7 < batch.images.std() < 1.5
    test = splits.test()
    assert test.description == "imagenette160.tar val, 1,000 images"
    assert "imagenette160.tar:imagenette/val/n01440764/" in test.files.name(0)
