"""Batches divided among processes: each image once, and the same batch as in one process."""

import dataclasses

import numpy as np
import pytest
import torch

from resnets.config import AugmentSpec, ConfigError, DataSpec
from resnets.data import TensorSplit, TrainStream, fit_preprocess
from resnets.data.dataset.labeled_images import FileSplit
from resnets.data.dataset.stream import BlockFiles, StreamSplit
from resnets.utils.machine.distributed import ProcessGroup, init_distributed

CPU = torch.device("cpu")
CLASSES = ("ant", "bee")


def image_split(count: int = 96) -> TensorSplit:
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)
    return TensorSplit(images, torch.arange(count) % 2, CLASSES, "random images")


def stream(
    split, group: ProcessGroup, spec: DataSpec, batch_size: int, norm_batch: int = 0
) -> TrainStream:
    preprocessor = fit_preprocess(split, spec, 3)
    return TrainStream(
        split, spec, preprocessor, batch_size, 3, CPU, group=group, norm_batch=norm_batch
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("batch", "unit"), [(96, 1), (96, 4), (60, 8), (7, 1)])
def test_batch_indices_are_whole_units_and_disjoint(count, batch, unit):
    parts = [ProcessGroup(index, count).batch_indices(batch, unit) for index in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(batch))
    for part in parts:
        assert len(part)
        whole = [set(range(at, min(at + unit, batch))) for at in part[part % unit == 0].tolist()]
        assert set(part.tolist()) == set().union(*whole)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = "LOCAL_RANK is 3, but this machine has 2 GPUs"
    with pytest.raises(ConfigError, match=message), init_distributed("auto"):
        pass


def test_cuda_that_is_not_there_is_the_reason(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def refuse(name: str) -> None:
        raise ConfigError(f"--device {name}: not usable here (no NVIDIA driver)")

    monkeypatch.setattr("resnets.utils.machine.distributed.pick_device", refuse)
    with pytest.raises(ConfigError, match="no NVIDIA driver"), init_distributed("cuda"):
        pass
    with pytest.raises(ConfigError, match="selects its own"), init_distributed("cuda:1"):
        pass


def test_too_few_units_for_all_ranks_are_rejected():
    with pytest.raises(ConfigError, match="batch_size=32.*4.*64"):
        ProcessGroup(0, 4).batch_indices(32, 16)
    mixed = DataSpec(augment=AugmentSpec(mixup=0.2))
    with pytest.raises(ConfigError, match="batch_size=31.*2"):
        stream(image_split(), ProcessGroup(0, 2), mixed, 31)


MIXED = AugmentSpec(
    crop="pad", flip=True, mixup=0.3, cutmix=1.0, repeats=2, random_erase=0.5, policy="rand"
)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("augment", [AugmentSpec(crop="pad", flip=True), MIXED])
def test_the_batches_of_all_ranks_make_up_the_global_batch(count, augment):
    split, spec = image_split(), DataSpec(augment=augment)
    alone = stream(split, ProcessGroup(), spec, 48, norm_batch=8)
    each = [
        stream(split, ProcessGroup(index, count), spec, 48, norm_batch=8) for index in range(count)
    ]
    streams = zip(alone.batches(5, 20), *(one.batches(5, 20) for one in each), strict=False)
    for _, (whole, *parts) in zip(range(4), streams, strict=False):
        for one, part in zip(each, parts, strict=True):
            for name in ("images", "targets", "ids", "other_targets", "target_weight"):
                of_all, mine = getattr(whole, name), getattr(part, name)
                if of_all is None:
                    assert mine is None
                else:
                    assert torch.equal(of_all[one.batch_indices], mine), name


class Counted:
    """Blocks of 8 images each, which note who loaded them."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def load(self, block: int) -> list[bytes]:
        from resnets.data.decode.decode import encode_pnm

        self.loaded.append(block)
        return [encode_pnm(np.full((16, 16, 3), block, np.uint8)) for _ in range(8)]

    def name(self, block: int, place: int) -> str:
        return f"{block}/{place}"


def streamed() -> tuple[StreamSplit, Counted]:
    blocks = Counted()
    where = np.stack([np.arange(1024) // 8, np.arange(1024) % 8], 1)
    labels = torch.zeros(1024, dtype=torch.int64)
    files = BlockFiles(blocks, where, 512)
    return StreamSplit(files, labels, CLASSES, "stream", buffer=64), blocks


@pytest.mark.parametrize("count", [2, 4])
def test_each_rank_reads_its_own_blocks_of_a_stream(count):
    spec = DataSpec(size=16, normalize="imagenet", workers=1)
    steps, ids, loads = 1024 // 64, [], []
    for index in range(count):
        split, blocks = streamed()
        assert isinstance(split, FileSplit)
        batches = stream(split, ProcessGroup(index, count), spec, 64).batches()
        ids.append([next(batches).ids for _ in range(steps)])
        batches.close()
        loads.append(set(blocks.loaded))
    split, _ = streamed()
    batches = stream(split, ProcessGroup(), spec, 64).batches()
    for step in range(steps):
        together = torch.cat([mine[step] for mine in ids])
        assert sorted(together.tolist()) == sorted(next(batches).ids.tolist())
    batches.close()
    # 128 blocks; the last lanes of an epoch, and what is read ahead, are shared.
    assert max(len(mine) for mine in loads) < 128 / count + 40
    resumed = stream(streamed()[0], ProcessGroup(1, count), spec, 64).batches(start_step=9)
    assert torch.equal(next(resumed).ids, ids[1][9])
    resumed.close()


def test_a_single_rank_does_not_communicate():
    rank, values = ProcessGroup(), {"a": 1.5}
    assert rank.sum(values) == values
    assert rank.all_gather([1, 2]) == [1, 2]
    assert rank.any(True)
    assert not rank.any(False)
    assert rank.broadcast_from_main(lambda: 7) == 7
    assert dataclasses.asdict(rank) == {"rank": 0, "world_size": 1}
