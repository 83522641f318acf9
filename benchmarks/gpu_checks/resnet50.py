"""ResNet-50 at 224 px beside torchvision's reference script and timm, in turns, in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpu_checks.case import Case, LeftOut, Row, Setting, median, rounded, spread, time_rounds
from gpu_checks.training import (
    COMPILED,
    EAGER,
    GRAPH,
    GRAPH_OF_BLOCKS,
    Training,
    random_images,
)
from resnets import recipes
from resnets.config import replace_fields

REFERENCE = "torchvision's script, AMP"
Step = Callable[[], Any]


def cases(setting: Setting) -> list[Case]:
    """Training and prediction; all contenders of a case take turns, the reference among them.

    First those that run at once; compilation takes a minute or more for each network.
    """
    return [
        Case("training", 70, partial(_training, setting, compiled=False)),
        Case("prediction", 30, partial(_prediction, setting, compiled=False)),
        Case("training, compiled", 240, partial(_training, setting, compiled=True)),
        Case("prediction, compiled", 150, partial(_prediction, setting, compiled=True)),
    ]


def _sizes(setting: Setting) -> tuple[int, int]:
    """Batch size and pixels."""
    return (4, 32) if setting.tiny else (256, 224)


def _training(setting: Setting, compiled: bool) -> list[Row]:
    """Steps on images that lie on the device: what the networks and the loops cost."""
    batch, size = _sizes(setting)
    x = torch.randn(batch, 3, size, size, device=setting.device)
    y = torch.randint(0, 1000, (batch,), device=setting.device)
    makers: dict[str, Callable[[], Step]] = {
        REFERENCE: lambda: _torchvision_step(setting, x, y, torch.contiguous_format),
        "the same, channels_last": lambda: _torchvision_step(setting, x, y, torch.channels_last),
        "timm, AMP, channels_last, compiled": lambda: _timm_step(setting, x, y),
        f"resnets, {EAGER}": lambda: _own_step(setting, EAGER),
        f"resnets, {COMPILED}": lambda: _own_step(setting, COMPILED),
        f"resnets, {GRAPH}": lambda: _own_step(setting, GRAPH),
        f"resnets, {GRAPH_OF_BLOCKS}": lambda: _own_step(setting, GRAPH_OF_BLOCKS),
    }
    chosen = {
        name: make
        for name, make in makers.items()
        if name == REFERENCE or (COMPILED in name) is compiled
    }
    return _compare(setting, "training", chosen, batch)


def _prediction(setting: Setting, compiled: bool) -> list[Row]:
    """Batches of images on the device, bfloat16, in eval mode."""
    batch, size = _sizes(setting)
    x = torch.randn(batch, 3, size, size, device=setting.device)
    x = x.to(memory_format=torch.channels_last)

    def torchvision_net() -> nn.Module:
        import torchvision

        return torchvision.models.resnet50()

    def own_net() -> nn.Module:
        from resnets.models import build, catalog

        return build(catalog.spec("resnet50", input_size=size))

    nets = {"torchvision": torchvision_net, "timm": _timm_net, "resnets": own_net}
    makers = {
        f"{name}, {way}": partial(_predict, setting, net, x, way)
        for way in (EAGER, COMPILED)
        for name, net in nets.items()
        if way == (COMPILED if compiled else EAGER) or (name, way) == ("torchvision", EAGER)
    }
    return _compare(setting, "prediction", makers, batch)


def _compare(
    setting: Setting, what: str, makers: dict[str, Callable[[], Step]], batch: int
) -> list[Row]:
    """Images/s of the contenders in turn, and ratios to the first in each round.

    One that cannot be made or does not run is left out, with the reason.
    """
    steps, failed = {}, {}
    for name, make in makers.items():
        if not setting.cuda and COMPILED in name:
            continue  # half a minute of compilation on a CPU, for nothing
        try:
            steps[name] = make()
            for _ in range(1 if setting.tiny else 5):
                steps[name]()
        except LeftOut as reason:
            failed[name] = str(reason)
        except Exception as error:
            steps.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    rounds, count = (1, 1) if setting.tiny else (5, 10)
    seconds = time_rounds(setting, steps, rounds, count, 1)
    first = next(iter(seconds.values()))
    rows: list[Row] = []
    for name, each in seconds.items():
        ratios = [mine / its for mine, its in zip(first, each, strict=True)]
        rate = rounded(batch / median(each))
        rows.append({"what": what, "contender": name, "images/s": rate, "ratio": spread(ratios)})
    return rows + [
        {"what": what, "contender": name, "images/s": None, "ratio": why}
        for name, why in failed.items()
    ]


def _torchvision_step(
    setting: Setting, x: Tensor, y: Tensor, memory_format: torch.memory_format
) -> Step:
    """A step of references/classification/train.py with --amp: fp16 autocast and GradScaler.

    Its `metric_logger.update(loss=loss.item())` is part of each step there, and here.
    """
    import torchvision

    half = torch.float16 if setting.cuda else torch.bfloat16
    net = torchvision.models.resnet50().to(setting.device, memory_format=memory_format).train()
    x = x.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.cuda)

    def step() -> None:
        with torch.autocast(setting.device.type, half):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return step


def _timm_net() -> nn.Module:
    try:
        import timm
    except ImportError:
        raise LeftOut("timm is not installed") from None
    return timm.create_model("resnet50")


def _timm_step(setting: Setting, x: Tensor, y: Tensor) -> Step:
    """A step as timm's train.py with --amp --amp-dtype bfloat16 --channels-last --torchcompile."""
    net = _timm_net().to(setting.device, memory_format=torch.channels_last).train()
    x, compiled = x.to(memory_format=torch.channels_last), torch.compile(net)
    optimizer = torch.optim.SGD(
        net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = F.cross_entropy(compiled(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _own_step(setting: Setting, way: str) -> Step:
    """The product's step, which also makes the batch: gather, flip and normalization."""
    batch, size = _sizes(setting)
    recipe = replace_fields(
        recipes.recipe("imagenet-90"),
        {
            "batch_size": str(batch),
            "norm_batch": "0",
            "data.size": str(size),
            "model.input_size": str(size),
            "data.augment.crop": "none",
            "precision": "bfloat16",
        },
    )
    split = random_images(4 * batch, size, recipe.model.num_classes)
    return Training(setting, recipe, split, way, 100_000).step


def _predict(setting: Setting, make: Callable[[], nn.Module], x: Tensor, way: str) -> Step:
    net = make().to(setting.device, memory_format=torch.channels_last).eval()
    net = torch.compile(net, dynamic=False) if way == COMPILED else net

    def step() -> None:
        with torch.inference_mode(), torch.autocast(setting.device.type, torch.bfloat16):
            net(x)

    return step
