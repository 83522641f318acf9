"""Parity with torchvision in both directions, and what maps say of tensors that do not fit."""

import pytest
import torch
from encode_weights import encoded, find_map
from torch import nn
from torchvision import models as torchvision_models
from weights_state import assert_same, logits, random_images, random_state

from resnets.config import ModelSpec
from resnets.models import ImageClassifier, build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.formats.spec import translate
from resnets.weights.name_maps.maps import build_name_map, identity_map

SHARED = [
    name
    for name in catalog.list_models()
    if name.replace("-", "_") in torchvision_models.list_models(module=torchvision_models)
    and not name.startswith("resnext101")  # those are only larger
]
TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)


def pair(name: str) -> tuple[ImageClassifier, nn.Module]:
    """Ours and torchvision's net of that name, on meta: they hold no memory until filled."""
    with torch.device("meta"):
        return build(catalog.spec(name)), torchvision_models.get_model(name.replace("-", "_"))


@pytest.mark.parametrize("name", SHARED)
def test_same_logits_both_directions(name: str) -> None:
    ours, theirs = pair(name)
    names = build_name_map("torchvision", ours)
    state = random_state(ours, seed=1)
    ours.load_state_dict(state, assign=True)
    there = names.to_foreign(state)
    theirs.load_state_dict(there, assign=True)
    images = random_images()
    assert_same(logits(ours, images), logits(theirs, images))
    back = names.to_own(theirs.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("format", "name"),
    [
        (format, name)
        for format in FORMATS
        for name in ("resnet50-v1", "resnet101", "vgg16-bn", "cifar-plain20")
        if FORMATS[format].rules(catalog.spec(name)) is not None
    ],
)
def test_the_round_trip_is_exact(format: str, name: str) -> None:
    """Every format is a bijection, in the layout of tensors too, for each net it has."""
    with torch.device("cpu" if format == "caffe" else "meta"):  # Caffe divides by its factor
        net = build(catalog.spec(name))
    names = build_name_map(format, net)
    state = net.state_dict()
    back = names.to_own(encoded(names, state))
    assert back.keys() == state.keys()
    assert all(back[key].shape == tensor.shape for key, tensor in state.items())


def test_tensors_left_over_or_missing_are_named() -> None:
    net = build(TINY)
    names = build_name_map("torchvision", net)
    theirs = names.to_foreign(net.state_dict())
    del theirs["layer1.0.conv2.weight"]
    theirs["layer9.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        names.to_own(theirs)
    assert "layer9.0.conv1.weight" in str(caught.value)
    assert "layer1.0.conv2.weight" in str(caught.value)
    with pytest.raises(WeightsError, match=r"\(extra\)"):
        names.to_foreign({**net.state_dict(), "extra": torch.zeros(1)})


def test_files_older_than_batch_counters_load() -> None:
    net = build(TINY)
    names = build_name_map("torchvision", net)
    theirs = names.to_foreign(net.state_dict())
    old = {key: value for key, value in theirs.items() if "num_batches" not in key}
    assert names.to_own(old).keys() == net.state_dict().keys()


def test_detection_of_names() -> None:
    net = build(TINY)
    theirs = build_name_map("torchvision", net)
    assert find_map(net.state_dict(), net) == identity_map(net)
    assert find_map(theirs.to_foreign(net.state_dict()), net) == theirs
    assert find_map({"encoder.layer.0": torch.zeros(1)}, net) is None


def test_torchvision_has_no_preactivation_networks() -> None:
    net = build(catalog.spec("cifar-preact-resnet20"))
    with pytest.raises(WeightsError, match="cifar-preact-resnet20"):
        build_name_map("torchvision", net)
    assert find_map(net.state_dict(), net) == identity_map(net)


def test_patterns() -> None:
    rules = (("a#.b#.*", "res#+1_#/*"), ("a#.c.count", None), ("*", "*"))
    found = translate(["a1.b12.weight", "a0.c.count", "head"], rules)
    assert found == {"a1.b12.weight": "res2_12/weight", "a0.c.count": None, "head": "head"}
