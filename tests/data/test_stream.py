"""Streaming: the order, what is held in memory, resuming, and each image once."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_sets import digit_files
from test_sources_datasets import Pictures, plain, write_shards

from resnets.config import AugmentSpec, DataSpec
from resnets.data import DataError, TrainStream, eval_batches, fit_preprocess, open_data
from resnets.data.dataset.stream import BlockFiles, StreamSplit, stream_order

pytest.importorskip("datasets")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return digit_files(50)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    columns = {"image": [data for data, _ in pictures], "label": [digit for _, digit in pictures]}
    return plain(tmp_path_factory.mktemp("stream") / "digits.parquet", columns, group=7)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, pictures, 30)
    return folder


def spec_of(source: Path, **changes: object) -> DataSpec:
    spec = DataSpec(source=str(source), size=16, streaming=True, shuffle_buffer=40)
    return replace(spec, augment=AugmentSpec(crop="pad", pad=2, flip=True), **changes)


def batches(spec: DataSpec, start: int, count: int) -> list:
    train = open_data(spec).train
    stream = TrainStream(train, spec, fit_preprocess(train, spec, 3), 16, 5, CPU)
    return list(islice(stream.batches(start), count))


def test_order_takes_blocks_at_random_and_mixes_them_within_the_buffer() -> None:
    block = np.repeat(np.arange(400), 20)
    order = stream_order(block, 800, seed=3, epoch=2)
    assert sorted(order) == list(range(8000))
    assert np.array_equal(order, stream_order(block, 800, 3, 2))
    assert not np.array_equal(order, stream_order(block, 800, 3, 3))
    assert not np.array_equal(order, stream_order(block, 800, 4, 2))
    # Without a buffer 16 blocks go side by side, each in its own order.
    line = stream_order(block, 0, 3, 2).reshape(25, 20, 16)
    assert (line % 20 == np.arange(20)[:, None]).all()
    assert (line // 20 == line[:, :1] // 20).all()
    firsts = line[:, 0].ravel() // 20
    assert sorted(firsts) == list(range(400))
    assert abs(np.corrcoef(firsts, np.arange(400))[0, 1]) < 0.2
    place = np.empty(8000, int)
    place[line.ravel()] = np.arange(8000)
    moved = place[order] - np.arange(8000)
    assert np.abs(moved).max() <= 800
    assert moved.std() > 200
    # At any time the blocks begun and not done are those of the buffer and one for each lane.
    held, most = Counter(), 0
    for row in order:
        held[block[row]] += 1
        most = max(most, 20 * sum(0 < count < 20 for count in held.values()))
    assert 400 < most < 800 + 16 * 2 * 20


def test_a_buffer_larger_than_the_set_mixes_all_of_it() -> None:
    order = stream_order(np.repeat(np.arange(500), 2), 10_000, 0, 0)
    assert 200 < (order[:500] < 500).sum() < 300


@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_a_rank_that_takes_every_nth_reads_its_own_blocks(ranks: int) -> None:
    size = np.random.default_rng(0).integers(15, 30, 6000)
    block = np.repeat(np.arange(6000), size)
    order = stream_order(block, 1000, 0, 1)
    read = [len(set(block[order[rank::ranks]])) for rank in range(ranks)]
    assert sum(read) < 1.35 * 6000  # those at the end of an epoch are read by all
    assert max(read) < 1.4 * 6000 / ranks


@pytest.mark.parametrize("kind", ["parquet", "shards"])
def test_batch_k_is_the_same_whenever_asked_for(
    kind: str, request: pytest.FixtureRequest, pictures: Pictures
) -> None:
    spec = spec_of(request.getfixturevalue(kind), val_fraction=0.1, test_fraction=0.1)
    whole = batches(spec, 0, 25)
    count = len(open_data(spec).train)
    assert 140 < count < 180
    ids = torch.cat([batch.ids for batch in whole]).tolist()
    assert sorted(ids[:count]) == sorted(ids[count : 2 * count]) == list(range(count))
    assert ids[:count] != ids[count : 2 * count]
    for workers in (1, 3):
        resumed = batches(replace(spec, workers=workers), 13, 4)
        for one, two in zip(whole[13:], resumed, strict=False):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.targets, two.targets)
            assert torch.equal(one.ids, two.ids)


@pytest.mark.parametrize("paths", [True, False])
def test_streamed_images_and_shares_are_those_of_the_whole_set(
    parquet: Path,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    paths: bool,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    spec = spec_of(parquet, in_memory="never", val_fraction=0.0, test_fraction=0.0)
    if paths:  # only paths tell images of both apart, so that the same ones are held out
        cells = [{"bytes": data, "path": f"{row}.png"} for row, (data, _) in enumerate(pictures)]
        columns = {"image": cells, "label": [digit for _, digit in pictures]}
        spec = spec_of(plain(tmp_path / "digits.parquet", columns, group=7), in_memory="never")
    streamed, stored = open_data(spec), open_data(replace(spec, streaming=False))
    pairs = [(streamed.train, stored.train)]
    if paths:
        pairs += [(streamed.val, stored.val), (streamed.test(), stored.test())]
    for one, two in pairs:
        assert isinstance(one, StreamSplit)
        assert one.channels == two.channels == 3
        assert torch.equal(one.labels, two.labels)
        assert one.description == two.description
        for row in range(len(one)):
            assert one.files.name(row) == two.files.name(row)
            assert one.files.read(row) == two.files.read(row)


@pytest.mark.parametrize("kind", ["parquet", "shards"])
def test_evaluation_counts_each_once(kind: str, request: pytest.FixtureRequest) -> None:
    spec = spec_of(request.getfixturevalue(kind), val_fraction=0.0, test_fraction=0.3)
    splits = open_data(spec)
    test = splits.test()
    preprocessor = fit_preprocess(splits.train, spec, 3)
    found = list(eval_batches(test, preprocessor, 32, CPU, workers=2))
    assert torch.cat([batch.ids for batch in found]).tolist() == list(range(len(test)))
    assert torch.equal(torch.cat([batch.targets for batch in found]), test.labels)


class _Counted:
    """Blocks of five that count how often each is loaded; block 2 cannot be."""

    def __init__(self) -> None:
        self.loads = Counter()

    def load(self, block: int) -> list[bytes]:
        self.loads[block] += 1
        if block == 2:
            raise DataError(f"block {block}: cannot be read (damaged)")
        return [bytes([block, place]) for place in range(5)]

    def name(self, block: int, place: int) -> str:
        return f"set:{5 * block + place}"


def where_of(blocks: int) -> np.ndarray:
    return np.stack([np.repeat(np.arange(blocks), 5), np.tile(np.arange(5), blocks)], 1)


def test_blocks_are_read_once_while_in_use_and_then_released() -> None:
    blocks = _Counted()
    files = BlockFiles(blocks, np.delete(where_of(10), range(10, 15), 0), limit=15)
    for row in range(45):
        block, place = files.where[row]
        assert files.read(row) == bytes([block, place])
    assert set(blocks.loads.values()) == {1}
    assert len(files._loaded) == 3
    files.read(0)
    assert blocks.loads[0] == 2
    assert files.take(np.array([7, 20])).name(1) == "set:25"


def test_a_damaged_block_is_tried_once_and_named_by_each_of_its_images() -> None:
    blocks = _Counted()
    files = BlockFiles(blocks, where_of(4), limit=15)
    for row in range(10, 15):
        with pytest.raises(DataError, match="block 2: cannot be read"):
            files.read(row)
    assert blocks.loads[2] == 1


def test_training_reads_few_blocks_at_a_time(parquet: Path) -> None:
    spec = spec_of(parquet, val_fraction=0, test_fraction=0, normalize="imagenet", workers=1)
    train = open_data(spec).train
    stream = TrainStream(train, spec, fit_preprocess(train, spec, 3), 10, 0, CPU)
    most = 0
    for _ in islice(stream.batches(), 40):
        most = max(most, sum(len(held.result()) for held in train.files._loaded.values()))
    assert most <= 40 + 10 + (16 + 4) * 7 + 7  # one more while it is being read
