"""Find the catalog models that a file's tensors match, if it does not specify its architecture."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from resnets.config import ModelSpec
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.name_maps.find_tensors import select_tensors
from resnets.weights.name_maps.maps import list_name_maps

MAX_DEPTH = 10_000  # layers
MAX_SIZE = 2**40  # elements of a tensor; larger ones are damaged
CONV_BIAS = re.compile(r"conv\d?\.bias$")
MAX_COPIES = 6  # of the weights in one file: averages and an optimizer's moments


def find_matching_models(contents: Mapping[str, LazyTensor], part: str | None = None) -> list[str]:
    """Return the catalog models whose tensors, except the head, are all there in their shapes."""
    kernels = sum(len(stored.shape) == 4 for stored in contents.values())
    names = dict.fromkeys([*catalog.list_models(), *_cifar_of_depth(kernels)])
    return [name for name in names if _matches(catalog.spec(name), contents, part, kernels)]


def matching_models_hint(contents: Mapping[str, LazyTensor], part: str | None = None) -> str:
    """Return the matching models as the end of a message; "" if there are none."""
    names = find_matching_models(contents, part)
    return f"; the tensors match {join_or(names)}" if names else ""


def join_or(names: Sequence[str]) -> str:
    """Return "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _matches(
    spec: ModelSpec, contents: Mapping[str, LazyTensor], part: str | None, kernels: int
) -> bool:
    if not _has_plausible_count(spec, kernels):
        return False
    with shapes_only():
        model = build(dataclasses.replace(spec, conv_bias="all"))
    try:
        selection = select_tensors(contents, list_name_maps(model), "", part, log_info=_discard)
    except WeightsError:  # several copies of the weights
        return False
    if selection is None:
        return False
    own = {name: tensor for name, tensor in model.state_dict().items() if _is_compared(name)}
    names = selection.map
    if names.format.decodes_values:
        count = len(names.known_names(selection.names))
        return count >= len(own) - 1 and names.count_own(selection.names) >= len(own)
    stored = {name: contents[full] for name, full in selection.names.items()}
    if any(each.size > MAX_SIZE for each in stored.values()):
        return False
    shapes = names.own_shapes({name: each.shape for name, each in stored.items()})
    return None not in shapes and all(
        name in shapes and _same_shape(name, shapes[name], tuple(tensor.shape), model)
        for name, tensor in own.items()
    )


def _cifar_of_depth(kernels: int) -> list[str]:
    """Return the CIFAR models with this many 3x3 layers; the catalog lists only some depths."""
    depths = {kernels // copies + 1 for copies in range(1, MAX_COPIES) if kernels % copies == 0}
    families = ("cifar-resnet", "cifar-plain", "cifar-preact-resnet")
    possible = [depth for depth in depths if depth >= 8 and depth % 6 == 2 and depth < MAX_DEPTH]
    return [f"{family}{depth}" for depth in possible for family in families]


def _has_plausible_count(spec: ModelSpec, kernels: int) -> bool:
    """Return whether the number of kernels is that of the model, or of several copies of it.

    This avoids building every model of the catalog.
    """
    blocks = sum(spec.depths)
    least = spec.layers_per_block * blocks + (not spec.is_vgg) * len(spec.stem_widths)
    least += 2 * blocks * (spec.attention == "se") + (spec.stem_pool == "conv")
    most = least + len(spec.depths) + 1  # projections, and a head that is a 1x1 convolution
    return any(least <= kernels / copies <= most for copies in range(1, MAX_COPIES))


def _is_compared(name: str) -> bool:
    """Return whether a tensor must be in a file; biases of convolutions may be."""
    optional = name.endswith("num_batches_tracked") or CONV_BIAS.search(name)
    return not name.startswith("head.") and not optional


def _same_shape(
    name: str, shape: tuple[int, ...], own: tuple[int, ...], model: ImageClassifier
) -> bool:
    """Compare shapes; the first convolution may have other input channels, or be a CIFAR stem's."""
    if name == f"{model.input_layer}.weight" and len(shape) == 4:
        return shape[0] == own[0] and shape[2:] in (own[2:], (3, 3))
    return shape == own


def _discard(*_: object) -> None:
    pass
