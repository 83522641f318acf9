"""ResNet-50 at 224 px: torchvision's reference script, timm and resnets in turn, in one process."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from timing import format_spread, ratios
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    COMPILED,
    EAGER,
    GRAPH,
    GRAPH_OF_BLOCKS,
    Training,
    random_images,
)

from gpu_checks.case import (
    FAILED,
    Case,
    Row,
    Setting,
    Skipped,
    is_fatal,
    rounded,
    time_rounds,
)
from resnets import recipes
from resnets.config import Preprocess, replace_fields
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import build, catalog
from resnets.runtime.inference_module import InferenceModule

# Names of contenders in training; those of this package are of `_contender`.
REFERENCE = "torchvision's script, AMP"
CHANNELS_LAST = "the same, channels_last"
TIMM = "timm, AMP, channels_last, compiled"
Step = Callable[[], Any]
LARGE_BATCH = 2048  # of timm's benchmark-infer tables
LARGE_MEMORY = 40 << 30  # bytes


def cases(setting: Setting) -> list[Case]:
    """Training and prediction; the contenders of a case take turns, the reference in each case.

    Compiled ones are late: compilation takes a minute or more per model.
    """
    eager, compiled, graph, blocks = map(_contender, (EAGER, COMPILED, GRAPH, GRAPH_OF_BLOCKS))
    late = (TIMM, compiled, blocks)
    return [
        Case("training", 60, partial(_training, setting, (CHANNELS_LAST, eager))),
        Case("training, one graph", 40, partial(_training, setting, (graph,))),
        Case("prediction", 30, partial(_prediction, setting, compiled=False)),
        Case("training, compiled", 240, partial(_training, setting, late), late=True),
        Case("prediction, compiled", 240, partial(_prediction, setting, compiled=True), late=True),
    ]


def _sizes(setting: Setting) -> tuple[int, int]:
    """Return batch size and image size in px."""
    return (4, 32) if setting.tiny else (256, 224)


def _training(setting: Setting, contenders: tuple[str, ...]) -> list[Row]:
    """Compare training steps of the reference and `contenders` on images that are on the device."""
    batch, size = _sizes(setting)
    x = torch.randn(batch, 3, size, size, device=setting.device)
    y = torch.randint(0, 1000, (batch,), device=setting.device)
    makers: dict[str, Callable[[], Step]] = {
        REFERENCE: lambda: _torchvision_step(setting, x, y, torch.contiguous_format),
        CHANNELS_LAST: lambda: _torchvision_step(setting, x, y, torch.channels_last),
        TIMM: lambda: _timm_step(setting, x, y),
    }
    for mode in (EAGER, COMPILED, GRAPH, GRAPH_OF_BLOCKS):
        makers[_contender(mode)] = partial(_package_step, setting, mode)
    chosen = {name: makers[name] for name in (REFERENCE, *contenders)}
    return _compare(setting, "training", chosen, batch)


def _contender(mode: str) -> str:
    """Return the name of this package's contender in a mode."""
    return f"resnets, {mode}"


def _prediction(setting: Setting, compiled: bool) -> list[Row]:
    """Compare inference on batches on the device, in bfloat16.

    Compiled also in batches of `LARGE_BATCH`, as in timm's tables, where the memory is large.
    """
    batch, size = _sizes(setting)
    rows = _compare_prediction(setting, compiled, batch, size)
    if compiled and setting.cuda and not setting.tiny:
        memory = torch.cuda.get_device_properties(setting.device).total_memory
        if memory > LARGE_MEMORY:
            rows += _compare_prediction(setting, compiled, LARGE_BATCH, size)
    return rows


def _compare_prediction(setting: Setting, compiled: bool, batch: int, size: int) -> list[Row]:
    """Compare inference on images of `size` px in one mode; torchvision's eager model in each."""
    x = torch.randn(batch, 3, size, size, device=setting.device)
    x = x.to(memory_format=torch.channels_last)
    images = torch.randint(256, (batch, size, size, 3), device=setting.device, dtype=torch.uint8)

    def torchvision_model() -> nn.Module:
        import torchvision

        return torchvision.models.resnet50()

    def package_model() -> nn.Module:
        model = build(catalog.spec("resnet50", input_size=size))
        model.preprocess = Preprocessor(Preprocess(size=size, resize=size))
        return InferenceModule(model, "bfloat16")

    contenders = {
        "torchvision": (torchvision_model, x),
        "timm": (_timm_model, x),
        "resnets": (package_model, images),
    }
    makers = {
        f"{name}, {mode}": partial(_predict, setting, make_model, inputs, mode)
        for mode in (EAGER, COMPILED)
        for name, (make_model, inputs) in contenders.items()
        if mode == (COMPILED if compiled else EAGER) or (name, mode) == ("torchvision", EAGER)
    }
    return _compare(setting, f"prediction, batch size {batch}", makers, batch)


def _compare(
    setting: Setting, what: str, makers: dict[str, Callable[[], Step]], batch: int
) -> list[Row]:
    """Measure images/s of the contenders, and ratios to the first in each round.

    A contender that fails is excluded: its row has the reason, and the case is not done. Raises
    RuntimeError if the first one fails, and the errors after which the process is unusable.
    """
    torch.backends.cudnn.benchmark = True  # as in torchvision's script
    steps, failed = {}, {}
    for name, make in makers.items():
        if not setting.cuda and COMPILED in name:
            continue  # compilation for a CPU takes half a minute and tests nothing
        try:
            steps[name] = make()
            for _ in range(1 if setting.tiny else 5):
                steps[name]()
        except Skipped as reason:
            failed[name] = str(reason)
        except Exception as error:
            if is_fatal(error):
                raise
            traceback.print_exc()
            steps.pop(name, None)
            line = " ".join(str(error).split())[:120]
            failed[name] = f"{FAILED}: {type(error).__name__}: {line}"
    reference = next(iter(makers))
    if reference in failed:
        raise RuntimeError(f"{reference}: {failed[reference]}")
    rounds, count = (1, 1) if setting.tiny else (5, 10)
    seconds = time_rounds(setting, steps, rounds, count, 1)
    rows: list[Row] = []
    for name, each in seconds.items():
        rate = rounded(batch / median(each))
        ratio = format_spread(ratios(seconds[reference], each), ".3g")
        rows.append({"what": what, "contender": name, "images/s": rate, "ratio": ratio})
    return rows + [
        {"what": what, "contender": name, "images/s": None, "ratio": reason}
        for name, reason in failed.items()
    ]


def _torchvision_step(
    setting: Setting, x: Tensor, y: Tensor, memory_format: torch.memory_format
) -> Step:
    """Return a step of references/classification/train.py with --amp: fp16 autocast, GradScaler.

    Each step there reads the loss: `metric_logger.update(loss=loss.item())`.
    """
    import torchvision

    half = torch.float16 if setting.cuda else torch.bfloat16
    model = torchvision.models.resnet50().to(setting.device, memory_format=memory_format).train()
    x = x.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.cuda)

    def step() -> None:
        with torch.autocast(setting.device.type, half):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return step


def _timm_model() -> nn.Module:
    try:
        import timm
    except ImportError:
        raise Skipped("timm is not installed") from None
    return timm.create_model("resnet50")


def _timm_step(setting: Setting, x: Tensor, y: Tensor) -> Step:
    """Step of timm's train.py --amp --amp-dtype bfloat16 --channels-last --torchcompile."""
    model = _timm_model().to(setting.device, memory_format=torch.channels_last).train()
    x, compiled = x.to(memory_format=torch.channels_last), torch.compile(model)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = F.cross_entropy(compiled(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _package_step(setting: Setting, mode: str) -> Step:
    """Return a step of resnets, which also makes the batch: gather, flip and normalization."""
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
    return Training(setting.device, recipe, split, mode).step


def _predict(setting: Setting, make_model: Callable[[], nn.Module], x: Tensor, mode: str) -> Step:
    """Return a forward pass; `InferenceModule` is bfloat16 without autocast, too."""
    model = make_model().to(setting.device, memory_format=torch.channels_last).eval()
    model = torch.compile(model, dynamic=False) if mode == COMPILED else model

    def step() -> None:
        with torch.inference_mode(), torch.autocast(setting.device.type, torch.bfloat16):
            model(x)

    return step
