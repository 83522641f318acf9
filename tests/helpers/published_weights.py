"""Published weights by name, with their library's own transform of images: no file of theirs.

`python tests/helpers/published_weights.py JPEG...` measures how far ours are from theirs.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision import models

from resnets.config import Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import catalog
from resnets.weights.hub import TIMM_TAGS, _from_transforms
from resnets.weights.readers.configs.timm import read_timm

FEATURES = "vgg16.IMAGENET1K_FEATURES"  # of no classifier; refused by name


@dataclass(frozen=True)
class Published:
    """Weights by name, and what their library does with an image before they see it."""

    name: str
    ours: Preprocess
    transform: Any  # PIL image to (3, size, size)
    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _timm_weights() -> Iterator[Published]:
    for name in (f"{net}.{tag}" for net, tags in TIMM_TAGS.items() for tag in tags):
        said = timm.models.get_pretrained_cfg(name).to_dict()
        config = json.loads(json.dumps({"architecture": name, "pretrained_cfg": said}))
        ours = read_timm(config, name).preprocess
        seen = timm.data.resolve_data_config(pretrained_cfg=said, use_test_size=True)
        assert ours is not None
        assert seen["crop_mode"] == "center"
        size = seen["input_size"][1]
        resize, how = int(size / seen["crop_pct"]), seen["interpolation"]
        transform = timm.data.create_transform(**seen, is_training=False)
        constants = tuple(seen["mean"]), tuple(seen["std"])
        yield Published(f"timm:{name}", ours, transform, size, resize, how, *constants)


def _torchvision_weights() -> Iterator[Published]:
    listed = models.list_models(module=models)
    for net in (each.replace("-", "_") for each in catalog.list_models()):
        for entry in models.get_model_weights(net) if net in listed else ():
            if f"{net}.{entry.name}" == FEATURES:
                continue
            seen = entry.transforms()
            size, resize, how = seen.crop_size[0], seen.resize_size[0], seen.interpolation.value
            ours = _from_transforms(seen).spec
            constants = tuple(seen.mean), tuple(seen.std)
            name = f"torchvision:{net}.{entry.name}"
            yield Published(name, ours, seen, size, resize, how, *constants)


@cache
def published() -> tuple[Published, ...]:
    return (*_timm_weights(), *_torchvision_weights())


def distinct() -> list[Published]:
    """One of all weights whose transforms are alike, both ours and the library's."""
    return list({(each.ours, repr(each.transform)): each for each in published()}.values())


def difference(each: Published, file: Path) -> Tensor:
    """Ours less theirs, (3, size, size), in steps of 1/255."""
    ours = Preprocessor(each.ours)(file)
    theirs = each.transform(Image.open(file).convert("RGB"))
    return (ours - theirs) * (255 * torch.tensor(each.ours.std)[:, None, None])


def measure(files: Iterable[Path]) -> Iterator[tuple[str, int, int, str, float, float]]:
    """Of each: its name, sizes and filter, and the mean and the largest difference."""
    files = list(files)
    for each in distinct():
        found = torch.stack([difference(each, file).abs() for file in files])
        yield each.name, each.size, each.resize, each.interpolation, found.mean(), found.max()


if __name__ == "__main__":
    for name, size, resize, how, mean, largest in measure(map(Path, sys.argv[1:])):
        print(f"{name:45} {size} of {resize} {how:8}  mean {mean:.3f}  largest {largest:.1f}")
