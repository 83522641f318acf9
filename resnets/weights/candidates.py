"""Which networks of the catalog a file's tensors fit, for when nobody says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from resnets.config import ModelSpec
from resnets.models import Net, build, catalog
from resnets.models.sketch import shapes_only
from resnets.weights.errors import WeightsError
from resnets.weights.maps import maps_of
from resnets.weights.select import select
from resnets.weights.stored import Stored


def fitting(contents: Mapping[str, Stored], part: str | None = None) -> list[str]:
    """Catalog names of the networks whose every tensor but the head's is there, in its shape."""
    return [name for name in catalog.names() if _fits(catalog.spec(name), contents, part)]


def fitting_hint(contents: Mapping[str, Stored], part: str | None = None) -> str:
    """The same as the end of a message; "" where none fits."""
    names = fitting(contents, part)
    return f"; the tensors fit {listed(names)}" if names else ""


def listed(names: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _fits(spec: ModelSpec, contents: Mapping[str, Stored], part: str | None) -> bool:
    if sum(spec.depths) * 2 > len(contents):  # a block has two tensors at least
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


def _counts(name: str, sketch: Net) -> bool:
    return not name.startswith("head.") and not name.endswith("num_batches_tracked")


def _like(name: str, found: tuple[int, ...], own: tuple[int, ...], sketch: Net) -> bool:
    """Equal shapes; the first convolution may take other channels."""
    if name == f"{sketch.input_layer}.weight" and len(found) == 4:
        return found[:1] + found[2:] == own[:1] + own[2:]
    return found == own


def _nothing(*_said: object) -> None:
    pass
