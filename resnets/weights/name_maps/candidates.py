"""Which networks of the catalog a file's tensors fit, for when nobody says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from resnets.config import ModelSpec
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.name_maps.maps import maps_of
from resnets.weights.name_maps.select import select

DEEPEST = 10_000  # layers
COPIES = 6  # averages, and an optimizer's moments


def fitting(contents: Mapping[str, LazyTensor], part: str | None = None) -> list[str]:
    """Catalog names of the networks whose every tensor but the head's is there, in its shape."""
    kernels = sum(len(stored.shape) == 4 for stored in contents.values())
    names = dict.fromkeys([*catalog.names(), *_of_any_depth(kernels)])
    return [name for name in names if _fits(catalog.spec(name), contents, part, kernels)]


def fitting_hint(contents: Mapping[str, LazyTensor], part: str | None = None) -> str:
    """The same as the end of a message; "" where none fits."""
    names = fitting(contents, part)
    return f"; the tensors fit {listed(names)}" if names else ""


def listed(names: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _fits(
    spec: ModelSpec, contents: Mapping[str, LazyTensor], part: str | None, kernels: int
) -> bool:
    if not _as_many(spec, kernels):
        return False
    with shapes_only():
        sketch = build(dataclasses.replace(spec, conv_bias="none"))
    try:
        chosen = select(contents, maps_of(sketch), "", part, say=_nothing)
    except WeightsError:  # several copies: each of them fits, or none
        return False
    if chosen is None:
        return False
    own = {name: tensor for name, tensor in sketch.state_dict().items() if _counts(name, sketch)}
    if chosen.map.format.decode is not dict:
        wanted = len(chosen.map.known(chosen.names))
        return wanted >= len(own) - 1 and chosen.map.count(chosen.names) >= len(own)
    theirs = {their: name for name, their in chosen.map.theirs.items() if their is not None}
    found = {theirs.get(name): contents[full].shape for name, full in chosen.names.items()}
    return None not in found and all(
        name in found and _like(name, found[name], tuple(tensor.shape), sketch)
        for name, tensor in own.items()
    )


def _of_any_depth(kernels: int) -> list[str]:
    """CIFAR's networks of so many 3x3 layers, which the catalog does not list: one layer more."""
    depths = {kernels // copies + 1 for copies in range(1, COPIES) if kernels % copies == 0}
    families = ("cifar-resnet", "cifar-plain", "cifar-preact-resnet")
    fits = [depth for depth in depths if depth >= 8 and depth % 6 == 2 and depth < DEEPEST]
    return [f"{family}{depth}" for depth in fits for family in families]


def _as_many(spec: ModelSpec, found: int) -> bool:
    """Whether so many kernels may be those of the network, or of copies of it beside each other.

    Spares building all of the catalog for a file that is one of it.
    """
    least = spec.layers_per_block * sum(spec.depths) + (not spec.is_vgg)
    return any(least <= found / copies <= least + len(spec.depths) for copies in range(1, COPIES))


def _counts(name: str, sketch: ImageClassifier) -> bool:
    return not name.startswith("head.") and not name.endswith("num_batches_tracked")


def _like(name: str, found: tuple[int, ...], own: tuple[int, ...], sketch: ImageClassifier) -> bool:
    """Equal shapes; the first convolution may take other channels, or be a CIFAR stem's."""
    if name == f"{sketch.input_layer}.weight" and len(found) == 4:
        return found[0] == own[0] and found[2:] in (own[2:], (3, 3))
    return found == own


def _nothing(*_said: object) -> None:
    pass
