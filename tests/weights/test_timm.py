"""Parity with timm's own nets, both directions; where timm computes otherwise, it is refused."""

import pytest
import torch
from encode_weights import encoded
from weights_state import assert_same, logits, pictures, random_state

from resnets.models import ImageClassifier, build, catalog
from resnets.weights.hub import TIMM
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.maps import WeightsError, detect, name_map

timm = pytest.importorskip("timm")

NETS = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11-bn",
]


def pair(name: str) -> tuple[ImageClassifier, torch.nn.Module]:
    """Ours and timm's, on meta: they hold no memory until filled."""
    with torch.device("meta"):
        return build(catalog.spec(name)), timm.create_model(name.replace("-", "_"))


@pytest.mark.parametrize("name", NETS)
def test_same_logits_both_directions(name: str) -> None:
    ours, theirs = pair(name)
    names = name_map("timm", ours)
    state = random_state(theirs, seed=1)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(names.to_own(state), assign=True)
    images = pictures(32)
    expected = logits(theirs, images)
    assert_same(logits(ours, images), expected)
    back = encoded(names, ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert detect(state, ours).format in (FORMATS["timm"], FORMATS["torchvision"])


def test_preactivation_nets_are_not_timms() -> None:
    net = build(catalog.spec("preact-resnet18"))
    with pytest.raises(WeightsError, match="preact-resnet18"):
        name_map("timm", net)


def test_known_tags_are_timms_own() -> None:
    """The table that notices misspelt tags offline lists what this timm knows, no more."""
    for net, tags in TIMM.items():
        known = {name.partition(".")[2] for name in timm.list_pretrained(f"{net}.*")}
        assert set(tags) <= known, net
        assert catalog.spec(net.replace("_bn", "-bn")).num_classes == 1000
