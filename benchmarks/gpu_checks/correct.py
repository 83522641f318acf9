"""Operators, models, batches and steps on the device, compared with float64 or each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    EAGER,
    GRAPH,
    GRAPH_OF_BLOCKS,
    Training,
    random_images,
)

from gpu_checks.case import WRONG, Case, Row, Setting, cifar_recipe, rounded
from resnets.config import LossSpec, replace_fields
from resnets.data import TrainStream, fit_preprocess
from resnets.data.batch import Batch
from resnets.data.loading.batches import eval_batches
from resnets.models import build, catalog
from resnets.models.layers import StdConv
from resnets.models.norm import BatchNormAct2d, convert_batch_norms
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import classification_loss
from resnets.train.state import new_state
from resnets.train.step import TrainStep
from resnets.utils.machine.precision import autocast, pick_precision

# Precisions, and the largest accepted relative errors (root mean square) of an operator, whose
# gradient may have ten times as much, and of the logits of a model. Random weights and batch
# statistics amplify rounding: on a CPU the errors of the logits of resnet50 are 0.34 in bfloat16,
# 0.06 in float16 and 1e-4 in float32, and up to 1.4 for another network. A model's gradient has no
# limit: a ReLU whose sign flips changes it by 1e-4 or more.
PRECISIONS = {
    "float32": (1e-5, 1e-3),
    "tf32": (5e-3, 0.2),
    "float16": (5e-3, 0.2),
    "bfloat16": (2e-2, 0.6),
}
MODELS = {
    "cifar-resnet20": (32, 16),
    "cifar-plain20": (32, 16),
    "cifar-preact-resnet20": (32, 16),
    "resnet18-a": (64, 8),
    "resnet50": (64, 8),
    "vgg11": (64, 4),
}
STEPS = 20


def cases(setting: Setting) -> list[Case]:
    """Return the cases, operators first: a wrong one explains errors of the others."""
    modes = [mode for mode in PRECISIONS if setting.cuda or mode in ("float32", "bfloat16")]
    names = ["cifar-resnet20"] if setting.tiny else list(MODELS)
    optimizers = ("sgd", "adamw") if setting.tiny else ("sgd", "adamw", "lamb")
    step_modes = (GRAPH, GRAPH_OF_BLOCKS) if setting.cuda else (GRAPH,)
    return [
        *[Case(f"operators, {mode}", 5, partial(_operators, setting, mode)) for mode in modes],
        *[Case(name, 10, partial(_compare_model, setting, name, modes)) for name in names],
        Case("batches", 5, partial(_batches, setting)),
        *[Case(f"steps, {kind}", 6, partial(_steps, setting, kind)) for kind in optimizers],
        *[
            Case(
                f"{each} and TrainStep",
                12 if each == GRAPH else 60,  # compiles
                partial(_graph, setting, each),
                late=each != GRAPH,
            )
            for each in step_modes
        ],
    ]


def _make_row(
    what: str,
    mode: str,
    output: float,
    gradient: float | None,
    limit: float,
    gradient_limit: float = math.inf,
) -> Row:
    """Return a row, which is wrong if an error is above its limit, or not a number."""
    is_right = output <= limit and (gradient is None or gradient <= gradient_limit)
    return {
        "what": what,
        "precision": mode,
        "error of the output": rounded(output, 2),
        "of the gradient": None if gradient is None else rounded(gradient, 2),
        "limit of the output": limit,
        "verdict": "right" if is_right else WRONG,
    }


@contextmanager
def _precision(setting: Setting, mode: str) -> Iterator[None]:
    """Context manager of forward passes in a precision, as in training."""
    with autocast(setting.device, pick_precision(mode, setting.device)):
        yield


def _relative_error(found: Tensor, expected: Tensor) -> float:
    difference = found.detach().double().cpu() - expected.detach().double().cpu()
    return (difference.norm() / expected.detach().double().norm().cpu()).item()


def _modules() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return operators of the models, with the shape of an input."""
    channels = 16
    ghost = nn.Sequential(BatchNormAct2d(channels))
    convert_batch_norms(ghost, 4, sync=False)
    return {
        "3x3 convolution": (nn.Conv2d(channels, 32, 3, padding=1), (8, channels, 32, 32)),
        "3x3, stride 2": (nn.Conv2d(64, 64, 3, stride=2, padding=1), (8, 64, 33, 33)),
        "3x3, 32 groups": (nn.Conv2d(64, 64, 3, padding=1, groups=32), (8, 64, 14, 14)),
        "3x3, dilated": (nn.Conv2d(64, 64, 3, padding=2, dilation=2), (8, 64, 14, 14)),
        "1x1, stride 2": (nn.Conv2d(64, 256, 1, stride=2), (8, 64, 28, 28)),
        "7x7, stride 2": (nn.Conv2d(3, 64, 7, stride=2, padding=3), (4, 3, 64, 64)),
        "standardized 3x3": (StdConv(channels, 16, 3, padding=1), (8, channels, 16, 16)),
        "batch norm and relu": (BatchNormAct2d(channels), (8, channels, 32, 32)),
        "ghost batch norm": (ghost, (8, channels, 32, 32)),
        "max pool": (nn.MaxPool2d(3, 2, 1), (8, 64, 33, 33)),
        "average pool": (nn.AdaptiveAvgPool2d(1), (8, 64, 7, 7)),
        "linear": (nn.Linear(2048, 1000), (16, 2048)),
    }


def _functions() -> dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]]:
    """Return operators without parameters, with the shape of an input."""

    def loss(**fields: str) -> Callable[[Tensor], Tensor]:
        spec = LossSpec(**fields)

        def of_logits(logits: Tensor) -> Tensor:
            targets = torch.arange(len(logits), device=logits.device) % logits.shape[1]
            batch = Batch(logits, targets, torch.arange(len(logits)))
            return classification_loss(spec)(lambda _: logits, batch).total

        return of_logits

    shape = (64, 100)
    return {
        "cross-entropy": (loss(), shape),
        "cross-entropy, smoothed": (loss(label_smoothing=0.1), shape),
        "binary cross-entropy": (loss(kind="bce"), shape),
        "focal loss": (loss(kind="focal"), shape),
        "antialiased resizing": (
            lambda x: F.interpolate(x, (24, 24), mode="bilinear", antialias=True),
            (8, 3, 32, 32),
        ),
    }


def _operators(setting: Setting, mode: str) -> list[Row]:
    """Compare outputs of operators and gradients of inputs and weights, in training mode."""
    torch.manual_seed(0)
    rows, limit = [], PRECISIONS[mode][0]
    for name, (call, shape) in {**_modules(), **_functions()}.items():
        reference = call
        if isinstance(call, nn.Module):
            reference, call = copy.deepcopy(call).double(), copy.deepcopy(call).to(setting.device)
        x = torch.randn(shape)
        expected, gradient = _forward_backward(reference, x.double())
        with _precision(setting, mode):
            found, found_gradient = _forward_backward(call, x.to(setting.device))
        error = _relative_error(found, expected)
        gradients = _relative_error(found_gradient, gradient)
        rows.append(_make_row(name, mode, error, gradients, limit, 10 * limit))
    return rows


def _forward_backward(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output for `x`, and all gradients as one vector on the CPU."""
    x = x.clone().requires_grad_()
    if x.ndim == 4 and x.is_cuda:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    out = call(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).to(out.device, torch.float32)
    (out.reshape(-1) * weight.to(out.dtype)).sum().backward()
    leaves = [x, *(call.parameters() if isinstance(call, nn.Module) else ())]
    return out, torch.cat([each.grad.double().cpu().reshape(-1) for each in leaves])


def _compare_model(setting: Setting, name: str, modes: list[str]) -> list[Row]:
    """Compare logits and the gradient of all weights for one batch, in each precision."""
    size, count = MODELS[name]
    torch.manual_seed(0)
    model = build(catalog.spec(name, input_size=size, num_classes=10, dropout=0.0)).train()
    x, y = torch.randn(count, 3, size, size), torch.randint(0, 10, (count,))
    reference = copy.deepcopy(model).double()
    expected = reference(x.double())
    F.cross_entropy(expected, y).backward()
    model = model.to(setting.device).to(memory_format=torch.channels_last)
    x, y = x.to(setting.device).to(memory_format=torch.channels_last), y.to(setting.device)
    rows = []
    for mode in modes:
        model.zero_grad()
        with _precision(setting, mode):
            logits = model(x)
            F.cross_entropy(logits.float(), y).backward()
        error = _relative_error(logits, expected)
        gradients = _relative_error(_gradient(model), _gradient(reference))
        rows.append(_make_row(name, mode, error, gradients, PRECISIONS[mode][1]))
    return rows


def _gradient(model: nn.Module) -> Tensor:
    """Return all gradients as one vector on the CPU."""
    return torch.cat([each.grad.double().cpu().reshape(-1) for each in model.parameters()])


def _batches(setting: Setting) -> list[Row]:
    """Compare training and test batches on the device and on the CPU bit by bit."""
    split, recipe = random_images(200, 32), cifar_recipe(setting, "cifar-resnet20")
    preprocessor = fit_preprocess(split, recipe.data, 3)
    found: list[list[Tensor]] = []
    for device in (torch.device("cpu"), setting.device):
        stream = TrainStream(split, recipe.data, preprocessor, 64, 0, device)
        batches = [*islice(stream.batches(), 6)]
        batches += eval_batches(split, preprocessor, 64, device)
        found.append([each.images.cpu() for each in batches])
    different = sum(not torch.equal(*pair) for pair in zip(*found, strict=True))
    return [
        _make_row(f"batches ({different} of {len(found[0])} differ)", "float32", different, None, 0)
    ]


def _steps(setting: Setting, kind: str) -> list[Row]:
    """Compare the change of all weights in three steps with that of float64 on a CPU.

    SGD in float32, the others in float64, but for the loss: where a gradient is nearly 0, rounding
    decides its sign, and Adam divides it by its size. In float32 their changes differ by 10 to 20%.
    """
    dtype, limit = (torch.float32, 0.05) if kind == "sgd" else (torch.float64, 0.03)
    fields = {"optim.kind": kind, "optim.lr": "0.01", "precision": "float32"}
    recipe = replace_fields(cifar_recipe(setting, "cifar-resnet20"), fields)
    split = random_images(200, 32)
    preprocessor = fit_preprocess(split, recipe.data, 3)
    moved = []
    for device, used in ((torch.device("cpu"), torch.float64), (setting.device, dtype)):
        torch.manual_seed(0)
        model = build(recipe.model).train()
        before = torch.cat([each.detach().double().reshape(-1) for each in model.parameters()])
        model = model.to(device, used).to(memory_format=torch.channels_last)
        state = new_state(model, recipe, 3)
        stream = TrainStream(
            split, recipe.data, preprocessor, recipe.batch_size, 0, torch.device("cpu")
        )
        off = torch.autocast(device.type, enabled=False)
        pick_precision("float32", device)
        with off:
            for batch in islice(stream.batches(0, 3), 3):
                images, targets = batch.images.to(device, used), batch.targets.to(device)
                here = Batch(images, targets, batch.ids)
                loss_fn = classification_loss(recipe.loss)
                TrainStep(state, DataParallelModel(model), loss_fn, off, recipe)(here)
        after = torch.cat([each.detach().double().cpu().reshape(-1) for each in model.parameters()])
        moved.append(after - before)
    name = str(dtype).removeprefix("torch.")
    return [_make_row(f"three steps, {kind}", name, _relative_error(*moved[::-1]), None, limit)]


def _graph(setting: Setting, step_mode: str) -> list[Row]:
    """Compare mean loss and averaged weights after the first steps, with and without a graph."""
    fields = {"precision": "float32", "ema_decay": "0.9", "optim.lr": "0.01"}
    recipe = cifar_recipe(setting, "cifar-resnet20", fields)
    split = random_images(200, 32)
    losses, weights, steps = [], [], 4 if setting.tiny else STEPS
    for each in (EAGER, step_mode):
        training = Training(setting.device, recipe, split, each, steps)
        for _ in range(steps):
            training.step()
        losses.append(training.state.interval.means()["loss"])
        averaged = training.state.ema.module.parameters()
        weights.append(torch.cat([each.detach().cpu().reshape(-1) for each in averaged]))
    loss = abs(losses[1] - losses[0]) / losses[0]
    return [
        _make_row(f"{step_mode}: mean loss of {steps} steps", "float32", loss, None, 1e-2),
        _make_row(
            f"{step_mode}: averaged weights",
            "float32",
            _relative_error(weights[1], weights[0]),
            None,
            1e-2,
        ),
    ]
