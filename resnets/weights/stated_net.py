"""What a file states of its network and images, held against the network that it is taken for."""

from __future__ import annotations

import dataclasses
import logging
import re

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data.transforms.preprocess import (
    IMAGENET_GRAY_MEAN,
    IMAGENET_GRAY_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
from resnets.models import catalog
from resnets.weights import folder
from resnets.weights.files import Weights
from resnets.weights.readers.stated import resized

log = logging.getLogger("resnets")

CIFAR_SIZE = 32  # px
SHARE = 256 / 224  # of the shorter side over the crop, as ImageNet's nets are measured
# Names of networks with tensors like those here that compute otherwise.
OTHERS = re.compile(
    r"(legacy_)?(se|eca|sk|gc|dark|lambda_|halo|bot|cot)_?(resnet|resnext)\w*"
    r"|resnet(blur|aa|rs|v2|_?gn)\w*|resne(t|xt)\d+(c|d|s|t|ts|_gn|_clip\w*)(_\w+)?"
)


def check_arch(weights: Weights, spec: ModelSpec) -> None:
    """ConfigError where a file itself says that it is of another network than `spec`.

    FILE#PART takes the tensors alone; what cannot be told is logged.
    """
    arch, place, source = weights.stated.arch, weights.stated.place, weights.source
    if not arch:
        return
    name = arch.rpartition("/")[2].partition(".")[0].lower()
    ours = {re.sub(r"^cifar|[-_]", "", each): each for each in catalog.names()}
    known = ours.get(re.sub(r"^(tv|gluon|cifar\d*)(?=_)|[-_]", "", name))
    field = None if known is None else folder.same_net(catalog.spec(known), spec)
    if known is not None and (field in (None, "stem") or known == spec.name):
        return
    said = f"{source}: states that it is of {arch[:60]!r} ({place})"
    if weights.part is None and (known is not None or OTHERS.fullmatch(name)):
        part = next((each for each in ("state_dict", "model") if _has(weights, each)), None)
        cure = f"say {source}#{part}" if part else "save it without that field"
        raise ConfigError(
            f"{said}, another network than {spec.name}; if they compute the same, {cure}"
        )
    if re.search(r"\d", name):
        log.warning("%s, which was not compared with %s", said, spec.name)


def _has(weights: Weights, part: str) -> bool:
    return any(name.startswith(f"{part}.") for name in weights.contents)


def stated_preprocess(weights: Weights, spec: ModelSpec) -> Preprocess:
    """What a file states of its images; ImageNet's where it does not."""
    assumed = _assumed(weights.source, spec)
    seen = dict(weights.stated.preprocess)
    crop_pct = seen.pop("crop_pct", None)
    for name in ("mean", "std"):
        if name in seen and len(seen[name]) != assumed.channels:
            raise ConfigError(
                f"{weights.source}: states {name} {seen[name]} for images of {assumed.channels}"
                " channels"
            )
    if crop_pct is not None:
        seen["resize"] = resized(seen.get("size", assumed.size), crop_pct)
    return dataclasses.replace(assumed, **seen)


def _assumed(source: str, spec: ModelSpec) -> Preprocess:
    """What most networks of its kind see: ImageNet's constants, at the size of its stem."""
    channels = spec.in_channels
    if channels not in (1, 3):
        raise ConfigError(f"{source}: takes {channels} channels; images have 1 (grey) or 3 (RGB)")
    small = spec.stem == "cifar"
    size = CIFAR_SIZE if small else spec.input_size
    return Preprocess(
        size=size,
        resize=size if small else round(SHARE * size),
        channels=channels,
        mean=IMAGENET_MEAN if channels == 3 else IMAGENET_GRAY_MEAN,
        std=IMAGENET_STD if channels == 3 else IMAGENET_GRAY_STD,
    )
