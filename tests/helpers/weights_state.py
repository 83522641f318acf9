"""Random weights, and runs of them, for tests that hold our nets against other libraries'."""

from pathlib import Path

import torch
from checkpoint_files import save_checkpoint
from torch import Tensor, nn

from resnets.config import ModelSpec, Preprocess, Recipe, dump_json, to_dict
from resnets.models import build

# Bottlenecks with projections, a stage long enough for numbered blocks, stride in the first 1x1.
SMALL = ModelSpec(
    name="small",
    block="bottleneck",
    depths=(2, 2, 8, 1),
    widths=(4, 6, 8, 10),
    stem_width=8,
    stride_in="1x1",
    num_classes=5,
    input_size=64,
)

CLASSES = ("cat", "dog", "a | b")
MEASURED = {"top1_error": 4.25, "top5_error": 0.0, "loss": 0.1, "examples": 1200}
PERIOD = 1_000_003  # larger tensors repeat themselves: VGG has 10^8 values to draw


def random_state(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random values for every tensor of `net`, sized so that signals stay of order 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return torch.tensor(seed)
        if like.dim() > 1:
            bound = (3 / like[0].numel()) ** 0.5
            values = torch.empty(min(like.numel(), PERIOD))
            values.uniform_(-bound, bound, generator=generator)
            turns = -(-like.numel() // PERIOD)
            return values.repeat(turns)[: like.numel()].view(like.shape)
        values = torch.empty(like.shape)
        positive = name.endswith(("running_var", "weight"))
        return values.uniform_(0.5 if positive else -0.5, 1.0, generator=generator)

    return {name: draw(name, tensor) for name, tensor in net.state_dict().items()}


def random_images(size: int = 64, seed: int = 3) -> Tensor:
    """Two random net inputs (2, 3, size, size)."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def logits(net: nn.Module, images: Tensor) -> Tensor:
    """What `net` makes of `images` in eval mode."""
    with torch.inference_mode():
        return net.eval()(images)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal within 1e-4 of the size of the signal, which is not all alike."""
    assert expected.std() > 1e-2
    assert (found - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max().item())


def make_run(folder: Path, spec: ModelSpec, preprocess: Preprocess) -> Path:
    """A finished run of random weights."""
    net = build(spec)
    tensors = {f"model/{name}": value for name, value in random_state(net, seed=1).items()}
    if preprocess.mean_image:
        tensors["preprocess/mean_image"] = torch.rand(3, preprocess.size, preprocess.size)
    recipe = Recipe(name="pets", model=spec, weights="torchvision:DEFAULT")
    meta = {
        "recipe": to_dict(recipe),
        "classes": list(CLASSES),
        "preprocess": to_dict(preprocess),
        "step": 3,
    }
    save_checkpoint(folder / "checkpoints" / "best.safetensors", tensors, meta)
    result = {
        "test": MEASURED | {"protocol": "1 view, 64x64 px, float32, best, pets test"},
        "data": "pets",
        "checkpoint": "best.safetensors",
    }
    dump_json(result, folder / "result.json")
    return folder
