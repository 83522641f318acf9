"""Parity with timm's own nets, both directions; where timm computes otherwise, it is refused."""

import pytest
import torch
from encode_weights import encoded, find_map
from weights_state import assert_same, logits, random_images, random_state

from resnets.models import ImageClassifier, build, catalog
from resnets.models.catalog import LATER_NAMES
from resnets.weights.hub import TIMM_TAGS
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.maps import WeightsError, build_name_map

timm = pytest.importorskip("timm")

NETS = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11-bn",
    "resnet10t",
    "resnet50s",
    "seresnext26d_32x4d",
    "ecaresnet26t",
    "resnetrs50",
    "resnetv2_50d",
    "resnetv2_50x1_bit",
]


# All networks of the catalog that timm has.
TIMMS = [name for name in catalog.list_models() if name.replace("-", "_") in timm.list_models()]


def pair(name: str) -> tuple[ImageClassifier, torch.nn.Module]:
    """Ours and timm's, on meta: they hold no memory until filled."""
    with torch.device("meta"):
        return build(catalog.spec(name)), timm.create_model(name.replace("-", "_"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in NETS else pytest.mark.slow) for name in TIMMS],
)
def test_same_logits_both_directions(name: str) -> None:
    ours, theirs = pair(name)
    names = build_name_map("timm", ours)
    state = random_state(theirs, seed=1)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(names.to_own(state), assign=True)
    images = random_images(32)
    expected = logits(theirs, images)
    assert_same(logits(ours, images), expected)
    back = encoded(names, ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert sum(each.numel() for each in ours.parameters()) == sum(
        each.numel() for each in theirs.parameters()
    )
    assert find_map(state, ours).format in (FORMATS["timm"], FORMATS["torchvision"])


def test_all_later_networks_are_timms() -> None:
    assert set(LATER_NAMES) | set(NETS) <= set(TIMMS)


@pytest.mark.parametrize("name", ["resnet18d", "seresnet18"])
def test_dilated_stages_are_timms(name: str) -> None:
    """An average pool before a projection averages at every position there."""
    ours = build(catalog.spec(name, dilate=2))
    theirs = timm.create_model(name, output_stride=8)
    state = random_state(theirs, seed=1)
    theirs.load_state_dict(state)
    ours.load_state_dict(build_name_map("timm", ours).to_own(state))
    images = random_images(64)
    with torch.inference_mode():
        found = ours.eval().stages(images)["stage4"]
        assert_same(found, theirs.eval().forward_features(images))


def test_preactivation_networks_are_not_timms() -> None:
    net = build(catalog.spec("preact-resnet18"))
    with pytest.raises(WeightsError, match="preact-resnet18"):
        build_name_map("timm", net)


def test_known_tags_are_timms_own() -> None:
    """The table that notices misspelt tags offline lists what this timm knows, no more."""
    for net, tags in TIMM_TAGS.items():
        known = {name.partition(".")[2] for name in timm.list_pretrained(f"{net}.*")}
        assert set(tags) <= known, net
        assert catalog.spec(net.replace("_bn", "-bn")).num_classes == 1000
