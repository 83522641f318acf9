"""The paper's solution by construction (section 1): a deeper model no worse than a shallow one.

"The added layers are identity mapping, and the other layers are copied from the learned shallower
model." A residual block is the identity as soon as its last layer's weights are zero, so here the
construction is exact, and weight decay drives the weights towards it.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.models import ImageClassifier, build
from resnets.models.norm_statistics import use_batch_statistics
from resnets.study.analyses.lesions import zero_branch


@dataclass(frozen=True)
class DeepenedComparison:
    """A model compared with itself deepened by `extra_blocks` per stage, on `images` images.

    eval_difference, train_difference: largest absolute difference between the logits of the
    shallow model and of the deepened one, with stored and with batch statistics; 0.0 means equal
    bits, except for the sign of a zero. plain_variation: largest absolute difference between the
    logits of any two images in a plain network deepened in the same way, with batch statistics;
    0.0 means that it gives all images the same logits. plain_variation_before: before it was
    deepened.
    """

    shallow_layers: int
    deep_layers: int
    extra_blocks: int
    images: int
    eval_difference: float
    train_difference: float
    plain_variation: float
    plain_variation_before: float


def deepen(model: ImageClassifier, extra_blocks: int) -> ImageClassifier:
    """Return a copy of `model` with `extra_blocks` zero blocks at the end of each stage.

    The last layer of each new branch (its norm's weight and bias, or its convolution's) is zero;
    the rest of the branch is random, since it makes no difference. So F(x) = 0, and

    - in a residual network each new block gives relu(x + 0) = x, as x comes out of a ReLU, or
      x + 0 in a pre-activation network: the deepened model computes what `model` does, bit for
      bit, in training as in evaluation (except for dropout);
    - in a plain network each new block gives relu(0) = 0: all images get the same logits.

    Raises ConfigError for a VGG, where new shortcuts are not the identity (option C, gates), and
    when `extra_blocks` is less than 1.
    """
    spec = model.spec
    check_range("extra blocks:", extra_blocks, "[1, inf)")
    if spec.is_vgg:
        raise ConfigError(f"{spec.name}: has no blocks to add to")
    if spec.residual and not spec.passes_identity:
        raise ConfigError(
            f"{spec.name}: a block of zero weights is not the identity here; use a model with "
            "shortcut option A or B, plain shortcuts and only a ReLU after the addition"
        )
    depths = tuple(depth + extra_blocks for depth in spec.depths)
    deep = copy.deepcopy(model)
    deep.spec = dataclasses.replace(spec, depths=depths, name=f"{spec.name}+{extra_blocks}")
    deep.origin = f"{model.origin}, deepened"
    source = build(deep.spec, **model.custom)
    for index, depth in enumerate(spec.depths):
        stage, new = (each.get_submodule(f"stage{index + 1}") for each in (deep, source))
        assert isinstance(stage, nn.Sequential)
        assert isinstance(new, nn.Sequential)
        for block in list(new)[depth:]:
            zero_branch(block)
            stage.append(block)
    return deep.to(next(model.parameters()).device).train(model.training)


def compare_deepened(
    model: ImageClassifier, images: Tensor, extra_blocks: int
) -> DeepenedComparison:
    """Deepen a residual `model`, and a plain network of its shape, and compare logits.

    images: (B, C, H, W). The plain network has random weights, since those of a residual network
    are useless without its shortcuts. `model` is not changed; raises ConfigError as `deepen` does.
    """
    shallow = copy.deepcopy(model).eval()
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        deep = deepen(shallow, extra_blocks)
        plain_spec = dataclasses.replace(model.spec, shortcut="none")
        plain = build(plain_spec, **model.custom).to(device)
        deep_plain = deepen(plain, extra_blocks)
        stored = (deep(images) - shallow(images)).abs().max().item()
        for each in (plain, deep_plain, deep, shallow):
            use_batch_statistics(each)
        before, after = plain(images), deep_plain(images)
        batch = (deep(images) - shallow(images)).abs().max().item()
    return DeepenedComparison(
        shallow_layers=_weighted_layers(shallow),
        deep_layers=_weighted_layers(deep),
        extra_blocks=extra_blocks,
        images=len(images),
        eval_difference=stored,
        train_difference=batch,
        plain_variation=_variation(after),
        plain_variation_before=_variation(before),
    )


def _variation(logits: Tensor) -> float:
    """Return the largest range over images of any of the logits (B, K)."""
    return (logits.amax(0) - logits.amin(0)).max().item()


def _weighted_layers(model: ImageClassifier) -> int:
    """Count convolutions and linear layers, but not projections on shortcuts."""
    return sum(
        isinstance(layer, nn.Conv2d | nn.Linear) and ".shortcut." not in name
        for name, layer in model.named_modules()
    )
