"""Mixed precision: where 8 bits lose too much, the layers they hurt most stay in float.

How far the logits go from the net's when a layer alone is quantised is its hurt. The worst stays in
float, then the worst two, and so on, each time quantised anew and proved, until one passes or int8
no longer pays. Why not NNCF's own `quantize_with_accuracy_control`: see docs/export.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.export.verify import VerificationError
from resnets.export.write import WEIGHTED, openvino_model, quantized_openvino, quiet, write_openvino
from resnets.models import Net
from resnets.runtime.artifact import ArtifactMetadata, files_of
from resnets.runtime.open import open_artifact, times_as_fast
from resnets.runtime.openvino_core import apart, core
from resnets.utils import environment

MOST_FLOAT = 0.5  # of the multiply-adds; beyond, less than half of what int8 gains is left
SEEN = 32  # pictures that tell the layers apart; 300 gave the same four worst
BATCH = 8  # at which they are computed: OpenVINO gets a first layer in int8 wrong at an open one
LAYERS = (*WEIGHTED, "Add", "Multiply", "ReduceMean", "AvgPool")


@dataclass(frozen=True)
class Layer:
    """hurt: root mean square change of the logits over their deviation; share: of multiply-adds."""

    name: str
    hurt: float
    share: float


def keep_float(
    net: Net,
    facts: ArtifactMetadata,
    path: Path,
    calibration: np.ndarray,
    plain: VerificationError,
    prove: Callable[[Path], dict[str, Any]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Replace the artifact at `path`, which `plain` refuses, by one that passes; its card.

    prove: gives a card or raises Refused. Other files are written beside `path`. Raises Refused
    where no net with enough int8 left passes.
    """
    say(f"{plain.reason}; looking for the layers that 8 bits hurt")
    with quiet():
        model = openvino_model(net, facts, named=True)
        layers = apart(functools.partial(rank, model.clone(), calibration))

    @quiet()
    def make(made: Path, **changes: Any) -> Path:
        write_openvino(model.clone(), replace(facts, **changes), made, calibration)
        return made

    plain_path, float_path = (path.with_name(f"{name}.xml") for name in ("plain", "float"))
    for old, new in zip(files_of(path), files_of(plain_path), strict=True):
        old.replace(new)
    last, tried = plain, 0
    for count in _counts(layers):
        names = tuple(layer.name for layer in layers[:count])
        say(f"trying {count} of {len(layers)} layers in float: {', '.join(names)}")
        try:
            card = prove(make(path, floats=names))
        except VerificationError as verdict:
            last, tried = verdict, count
            continue
        precise = environment.pick_precision("auto", torch.device("cpu"))
        base = open_artifact(make(float_path, precision=precise))
        times = [times_as_fast(open_artifact(each), base) for each in (path, plain_path)]
        card["mixed"] = {
            "float": {layer.name: layer.hurt for layer in layers[:count]},
            "quantised": len(layers) - count,
            "float_multiply_adds": sum(layer.share for layer in layers[:count]),
            "all_int8": {"verdict": plain.reason, "top1_error": plain.top1_error},
            "times_as_fast_as": precise,
            "times": times[0],
            "times_all_int8": times[1],
        }
        return card
    few = f", with {tried} of {len(layers)} layers in float" if tried else ""
    raise VerificationError(f"{last.reason}{few}; nothing was written", last.top1_error)


def rank(model: Any, calibration: np.ndarray) -> list[Layer]:
    """The layers of an openvino.Model that NNCF quantises, the one that 8 bits hurt most first."""
    model = quantized_openvino(model, calibration, for_ranking=True)
    model.reshape([BATCH, *calibration.shape[1:]])
    quantised = {op: found for op in model.get_ordered_ops() if (found := _quantisers(op))}
    readers = {
        op.get_friendly_name(): (op, list(op.output(0).get_target_inputs()))
        for op in model.get_ops()
        if op.get_type_name() == "FakeQuantize"
    }

    def turn(names: Any, on: bool) -> None:
        for name in names:
            op, inputs = readers[name]
            for each in inputs:
                each.replace_source_output(op.output(0) if on else op.input_value(0))

    seen = calibration[np.linspace(0, len(calibration) - 1, SEEN).astype(int)]

    def compute() -> np.ndarray:
        compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([compiled(part)[0] for part in np.split(seen, SEEN // BATCH)])

    turn(readers, on=False)
    expected = compute()
    sizes = {op: _multiply_adds(op) for op in quantised}
    layers = []
    for op, found in quantised.items():
        turn(found, on=True)
        hurt = float(np.sqrt(((compute() - expected) ** 2).mean()) / (expected.std() or 1.0))
        turn(found, on=False)
        share = sizes[op] / sum(sizes.values())
        layers.append(Layer(op.get_friendly_name(), hurt, share))
    return sorted(layers, key=lambda layer: -layer.hurt)


def _quantisers(op: Any) -> list[str]:
    """Names of the quantisers whose outputs a layer reads, be it through a pooling or padding."""
    found, ahead = [], list(op.inputs()) if op.get_type_name() in LAYERS else []
    while ahead:
        before = ahead.pop().get_source_output().get_node()
        if before.get_type_name() == "FakeQuantize":
            found.append(before.get_friendly_name())
        elif before.get_type_name() not in LAYERS:
            ahead += before.inputs()
    return found


def _multiply_adds(op: Any) -> int:
    """Of one picture; 0 of a layer without weights."""
    size = math.prod(op.output(0).get_shape()[2:])
    return size * math.prod(op.input_value(1).get_shape()) if op.get_type_name() in WEIGHTED else 0


def _counts(layers: list[Layer]) -> list[int]:
    """Numbers of layers to try: each half as large again, as long as int8 pays."""
    shares = np.cumsum([layer.share for layer in layers])
    most = int((shares <= MOST_FLOAT).sum())
    counts = [1]
    while counts[-1] < most:
        counts.append(min(most, counts[-1] + max(1, counts[-1] // 2)))
    return counts if most else []
