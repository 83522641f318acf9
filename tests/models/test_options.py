"""Dilation, stochastic depth and blurred subsampling: equal to the references, absent when off."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from weights_state import random_state

from resnets.config import ConfigError, ModelSpec
from resnets.models import ImageClassifier, build, catalog, cost
from resnets.models.layers import BlurredConv, DropPath, low_pass
from resnets.weights.folder import published_name
from resnets.weights.name_maps.maps import build_name_map

TINY = ModelSpec(
    name="tiny", depths=(2, 2), widths=(16, 32), stem="cifar", stem_width=16, num_classes=5
)


def tiny(**options: object) -> ImageClassifier:
    torch.manual_seed(0)
    return build(dataclasses.replace(TINY, **options))


@pytest.mark.parametrize("stages", [1, 2])
def test_dilated_stages_equal_torchvision(stages: int) -> None:
    """DeepLab's backbone: the same weights give the same maps as torchvision's dilated model."""
    with torch.device("meta"):
        ours = build(catalog.spec("resnet50", dilate=stages))
        replaced = [index >= 3 - stages for index in range(3)]
        theirs = resnet50(replace_stride_with_dilation=replaced)
    names = build_name_map("torchvision", ours)
    state = random_state(ours, seed=1)
    ours.load_state_dict(state, assign=True)
    theirs.load_state_dict(names.to_foreign(state), assign=True)
    images = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    theirs.fc = theirs.avgpool = nn.Identity()
    with torch.no_grad():
        maps = ours.eval().stages(images)["stage4"]
        expected = theirs.eval()(images).view(maps.shape)
    assert maps.shape[-2:] == ((9, 13) if stages == 2 else (5, 7))
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact-basic", "preact-bottleneck"])
def test_dilation_sees_as_far_as_the_stride_it_replaces(block: str) -> None:
    """A dilated stage gives, on its grid of every second place, what the strided stage gives."""
    model = build(ModelSpec(block=block, depths=(1, 2, 1), widths=(8, 16, 32), stem_width=8)).eval()
    dilated = build(dataclasses.replace(model.spec, dilate=1)).eval()
    dilated.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        strided, wide = model.stages(images)["stage3"], dilated.stages(images)["stage3"]
    assert wide.shape[-1] == 2 * strided.shape[-1]
    inside = wide[..., ::2, ::2][..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, strided[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_dropped_branches_follow_depth_and_keep_the_mean() -> None:
    model = tiny(drop_path=0.6)
    rates = [block.drop_path.p for block in model.blocks().values()]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6])
    block = model.stage2[1]
    x = torch.rand(1, 32, 4, 4).expand(4000, -1, -1, -1)
    norms = {m for m in block.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms:
        norm.eval()
    with torch.no_grad():
        branch, shortcut = block.paths(x[:1])
        dropped = block.drop_path(branch.expand(4000, -1, -1, -1))
        whole = block(x[:100])
    kept = dropped.flatten(1).abs().sum(1) > 0
    assert kept.float().mean() == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(dropped[kept][:1], branch / 0.4)
    for out in whole:  # norms in eval mode, as frozen ones are, do not switch it off
        outcomes = ((branch / 0.4 + shortcut).relu()[0], shortcut.relu()[0])
        assert any(torch.allclose(out, each, atol=1e-5) for each in outcomes)
    assert torch.equal(DropPath(0.6).eval()(branch), branch)


@pytest.mark.parametrize("block", ["basic", "preact-basic"])
def test_recomputed_blocks_drop_the_same_branches(block: str) -> None:
    stored = tiny(block=block, drop_path=0.5, depths=(4, 4))
    recomputed = copy.deepcopy(stored)
    recomputed.recompute = True
    for model in (stored, recomputed):
        torch.manual_seed(3)
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        F.cross_entropy(model(images), torch.arange(8) % 5).backward()
    for one, other in zip(stored.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def zhang(x: Tensor, stride: int) -> Tensor:
    """The low-pass written out: outermost pixels repeated, then an explicit 3x3 kernel."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line)[None, None].expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), kernel, None, stride, groups=x.shape[1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 7)])
def test_low_pass_is_the_triangle_filter(size: tuple[int, int], stride: int) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(low_pass(x, stride), zhang(x, stride))


@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
def test_blurred_model_has_the_same_tensors_and_shifts_less(shortcut: str) -> None:
    plain = build(
        ModelSpec(depths=(1, 1, 1), widths=(16, 32, 64), stem_width=16, shortcut=shortcut)
    )
    blurred = build(dataclasses.replace(plain.spec, blur_pool=True))
    blurred.load_state_dict(plain.state_dict())
    assert cost.count_cost(blurred, 64).parameters == cost.count_cost(plain, 64).parameters
    assert not isinstance(blurred.stem.conv, BlurredConv)
    assert isinstance(blurred.stage2[0].conv1, BlurredConv)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def drift(model: ImageClassifier) -> float:
        """Relative change of the last stage's mean activation when the images move 1 px."""
        with torch.no_grad():
            one, two = (
                model.eval().stages(shifted)["stage3"].mean((2, 3))
                for shifted in (images, images.roll(1, 3))
            )
        return float((one - two).norm() / one.norm())

    assert drift(blurred) < 0.7 * drift(plain)


def test_off_changes_nothing() -> None:
    """No option adds or renames a tensor, and eval mode does not see stochastic depth."""
    images = torch.randn(2, 3, 16, 16)
    base = tiny().eval()
    for options in ({"drop_path": 0.5}, {"dilate": 1}, {"blur_pool": True}):
        other = tiny(**options).eval()
        for (name, one), (same, two) in zip(
            base.state_dict().items(), other.state_dict().items(), strict=True
        ):
            assert name == same
            assert torch.equal(one, two)
    torch.testing.assert_close(base(images), tiny(drop_path=0.5).eval()(images))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop_path": 1.0}, "model.drop_path: 1.0"),
        ({"drop_path": 0.1, "shortcut": "none"}, "model.drop_path"),
        ({"dilate": 2}, "model.dilate: 2 "),
        ({"dilate": -1}, "model.dilate"),
        ({"blur_pool": True, "stem": "imagenet", "stem_pool": "ceil"}, "model.blur_pool"),
        ({"block": "vgg", "dilate": 1}, "model.dilate"),
        ({"block": "vgg", "drop_path": 0.1}, "model.drop_path"),
    ],
)
def test_contradicting_fields_are_named(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(**options)


def test_stochastic_depth_compiles_without_a_graph_break() -> None:
    model = tiny(drop_path=0.5)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(torch.randn(2, 3, 16, 16)).sum().backward()


def test_published_names_are_for_models_that_compute_alike() -> None:
    """Stochastic depth is over when a model is published; dilation and blurring are not."""
    spec = catalog.spec("resnet50")
    assert published_name(dataclasses.replace(spec, drop_path=0.1)) == "resnet50"
    assert published_name(dataclasses.replace(spec, dilate=2)) is None
    assert published_name(dataclasses.replace(spec, blur_pool=True)) is None
