"""Large images on a CPU: the kernel, the loop in torch and the whole batch agree to the bit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from resnets.config import AugmentSpec, Preprocess
from resnets.data import Preprocessor
from resnets.data.transforms import augment

SIZE = 104


@pytest.mark.parametrize("mean_image", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("repeats", [1, 20])  # 20: with three channels written past the caches
def test_three_ways_agree(
    mean_image: bool, channels: int, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = (0.4, 0.5, 0.6)[:channels]
    spec = Preprocess(
        size=SIZE,
        resize=SIZE,
        channels=channels,
        mean=numbers,
        std=numbers,
        mean_image=mean_image,
    )
    mean = torch.rand(channels, SIZE, SIZE, generator=generator) if mean_image else None
    change = AugmentSpec(crop="random-resized", flip=True)
    batch = augment.BatchAugment(change, Preprocessor(spec, mean), 3, torch.device("cpu"))
    shape = (10, SIZE, SIZE, channels)
    stored = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    rows = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]).repeat(repeats)

    def images() -> Tensor:
        return batch(stored, rows, np.zeros(len(rows), np.int64), rows.numpy())

    by_kernel = images()
    monkeypatch.setattr(augment, "flip_and_normalize", lambda *_: False)
    one_by_one = images()
    monkeypatch.setattr(augment, "MIN_IMAGE_BY_IMAGE", SIZE + 1)
    whole_batch = images()
    assert by_kernel.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_kernel, one_by_one)
    assert torch.equal(by_kernel, whole_batch)
    batch.spec = AugmentSpec(crop="random-resized")
    as_stored = [torch.equal(*pair) for pair in zip(whole_batch, images(), strict=True)]
    assert True in as_stored
    assert False in as_stored
