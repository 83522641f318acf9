"""The paper's constructed solution (section 1): a deeper net that is no worse than a shallower one.

"The added layers are identity mapping, and the other layers are copied from the learned shallower
model." A residual block is the identity as soon as its last layer's weights are zero, so here the
construction is exact, and lies where weight decay points.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier, build
from resnets.models.block import require


@dataclass(frozen=True)
class Proof:
    """What `prove` saw of a net deepened by `extra_blocks` in each stage, on `pictures` pictures.

    eval_difference, train_difference: largest absolute difference between the logits of the
    shallow net and of the deepened one, with stored and with batch statistics; 0.0 means equal
    bits, but for the sign of a zero. plain_variation: largest absolute difference between the
    logits of any two pictures in a plain net deepened in the same way, with batch statistics; 0.0
    means that it gives one answer to all. plain_variation_before: before it was deepened.
    """

    shallow_layers: int
    deep_layers: int
    extra_blocks: int
    pictures: int
    eval_difference: float
    train_difference: float
    plain_variation: float
    plain_variation_before: float


def deepen(net: ImageClassifier, extra_blocks: int) -> ImageClassifier:
    """A net with `extra_blocks` more blocks at the end of each stage, whose weights are null.

    The other weights and statistics are copies of those of `net`, whose mode it has. The last
    layer of each new branch (its norm's weight and bias, or its convolution's) is zero; the rest
    of the branch is drawn at random, since it makes no difference. So F(x) = 0, and

    - in a residual net each new block gives relu(x + 0) = x, as x comes out of a relu, or x + 0
      in a pre-activation net: the deepened net computes what `net` does, bit for bit, in
      training as in evaluation (dropout apart);
    - in a plain net each new block gives relu(0) = 0: the deepened net gives one answer to all.

    Raises ConfigError for a VGG, for option C, whose new shortcuts are projections and not the
    identity, and when `extra_blocks` is less than 1.
    """
    spec = net.spec
    if extra_blocks < 1:
        raise ConfigError(f"extra blocks: {extra_blocks} must be at least 1")
    if spec.is_vgg:
        raise ConfigError(f"{spec.name}: has no blocks to add to")
    if spec.shortcut == "C":
        raise ConfigError(
            f"{spec.name}: option C projects on every shortcut, so a block of null weights is not "
            "the identity; use a net with option A or B"
        )
    depths = tuple(depth + extra_blocks for depth in spec.depths)
    deep = copy.deepcopy(net)
    deep.spec = dataclasses.replace(spec, depths=depths, name=f"{spec.name}+{extra_blocks}")
    deep.origin = f"{net.origin}, deepened"
    source = build(deep.spec, **net.custom)
    for index, depth in enumerate(spec.depths):
        stage, new = (each.get_submodule(f"stage{index + 1}") for each in (deep, source))
        assert isinstance(stage, nn.Sequential)
        assert isinstance(new, nn.Sequential)
        for block in list(new)[depth:]:
            for parameter in require(block, "last_layer").parameters():
                nn.init.zeros_(parameter)
            stage.append(block)
    return deep.to(next(net.parameters()).device).train(net.training)


def prove(net: ImageClassifier, images: Tensor, extra_blocks: int) -> Proof:
    """Deepen a residual `net`, and a plain net of its shape, and compare logits on `images`.

    images: (B, C, H, W). The plain net has random weights, since those of a residual net are of
    no use without its shortcuts. Works on copies; ConfigError as `deepen`.
    """
    shallow = copy.deepcopy(net).eval()
    device = next(net.parameters()).device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        deep = deepen(shallow, extra_blocks)
        flat = dataclasses.replace(net.spec, shortcut="none")
        plain = build(flat, **net.custom).to(device).train()
        before, after = plain(images), deepen(plain, extra_blocks)(images)
        stored = (deep(images) - shallow(images)).abs().max().item()
        batch = (deep.train()(images) - shallow.train()(images)).abs().max().item()
    return Proof(
        shallow_layers=_weighted_layers(shallow),
        deep_layers=_weighted_layers(deep),
        extra_blocks=extra_blocks,
        pictures=len(images),
        eval_difference=stored,
        train_difference=batch,
        plain_variation=_variation(after),
        plain_variation_before=_variation(before),
    )


def _variation(logits: Tensor) -> float:
    """Largest spread over pictures of any of the logits (B, K)."""
    return (logits.amax(0) - logits.amin(0)).max().item()


def _weighted_layers(net: ImageClassifier) -> int:
    """Convolutions and linear layers, projections on shortcuts not counted."""
    return sum(
        isinstance(layer, nn.Conv2d | nn.Linear) and ".shortcut." not in name
        for name, layer in net.named_modules()
    )
