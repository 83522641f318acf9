"""Read the tensors of weights that a model takes, unless their sizes or types are impossible."""

from __future__ import annotations

import torch
from torch import Tensor

from resnets.models import ImageClassifier
from resnets.utils.printable import join_names
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, reading_weights
from resnets.weights.name_maps.find_tensors import Selection
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.read import Weights

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# A tensor that is more than MAX_RATIO times as large as that of the model, and MARGIN elements, is
# not read. Heads differ in their classes, first convolutions in their kernel and channels.
MAX_RATIO, MARGIN = 64, 1 << 22


def read_tensors(weights: Weights, selection: Selection, template: ImageClassifier) -> Tensors:
    """Read the selected tensors, after a check that their sizes are near those of the model."""
    own = {name: tensor.numel() for name, tensor in template.state_dict().items()}
    theirs = {
        their: own[name] for name, their in selection.map.foreign_names.items() if their is not None
    }
    largest, budget = max(own.values()), MAX_RATIO * sum(own.values()) + MARGIN
    tensors: Tensors = {}
    for name, full in selection.names.items():
        stored = weights.contents[full]
        budget -= stored.size
        if stored.size > MAX_RATIO * theirs.get(name, largest) + MARGIN or budget < 0:
            raise WeightsError(
                f"{weights.source}: {join_names([full])} of shape {stored.shape} is far larger"
                f" than any tensor of {template.spec.name}; not read"
            )
        tensors[name] = _read_tensor(stored, full, weights.source)
    return tensors


def _read_tensor(stored: LazyTensor, name: str, source: str) -> Tensor:
    with reading_weights(source):
        tensor = stored.read()
    name = join_names([name])
    if tensor.is_floating_point() and tensor.dtype not in FLOATS:
        raise WeightsError(
            f"{source}: {name} has dtype {tensor.dtype}, as in a quantized network; save the float "
            "weights"
        )
    if tensor.is_complex() or tensor.is_quantized:
        raise WeightsError(f"{source}: {name} has dtype {tensor.dtype}; expected real numbers")
    return tensor
