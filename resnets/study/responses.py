"""How strongly each 3x3 layer responds (paper, section 4.2, Fig. 7)."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnets import host
from resnets.config import ModelSpec
from resnets.data import Batch
from resnets.models import Net
from resnets.study.batches import check_finite, draw_split, images_of, load_subjects, show
from resnets.study.convergence import caution, cautions
from resnets.study.page import Report, write_report
from resnets.weights.load import NOTHING_SAID, LoadOptions

SEED = 0  # of the draw of pictures


@dataclass(frozen=True)
class LayerResponse:
    """Standard deviation of the response of one 3x3 convolution, named as in the net."""

    layer: str
    std: float


@dataclass(frozen=True)
class NetResponses:
    """The responses of one net, first layer to last."""

    label: str
    spec: ModelSpec
    layers: tuple[LayerResponse, ...]

    @property
    def mean(self) -> float:
        """Mean over layers of the standard deviation."""
        return sum(layer.std for layer in self.layers) / len(self.layers)

    @property
    def sorted(self) -> list[float]:
        """Standard deviations from the largest down, as in the lower half of Fig. 7."""
        return sorted((layer.std for layer in self.layers), reverse=True)


def responses(net: Net, batches: Iterable[Batch]) -> tuple[LayerResponse, ...]:
    """Standard deviation of what each 3x3 convolution gives, in the order in which they run.

    A response is what leaves the convolution and its batch norm, where one follows, before relu
    or addition. It is taken over all pictures, channels and places. `net` is put in eval mode.
    """
    net.eval()
    count = 0
    sums: dict[str, Tensor] = {}
    with torch.inference_mode(), _listening(net) as heard:
        for batch in batches:
            net(images_of(batch))
            for layer, moments in heard.items():
                sums[layer] = sums.get(layer, 0) + len(batch) * moments
            count += len(batch)
    means = {layer: (total / count).tolist() for layer, total in sums.items()}
    return tuple(
        LayerResponse(layer, math.sqrt(max(0.0, square - mean**2)))
        for layer, (mean, square) in means.items()
    )


@contextmanager
def _listening(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it lasts: layer -> mean and mean square (2,) of its response in the last forward pass.

    Taken at once, as the relu after it may work in place.
    """
    heard: dict[str, Tensor] = {}
    latest: list[tuple[str, Tensor]] = []  # the newest convolution and its output

    def after_conv(name: str, output: Tensor) -> None:
        latest[:] = [(name, output)]
        heard[name] = _moments(output)

    def after_norm(seen: Tensor, output: Tensor) -> None:
        for name, response in latest:
            if seen is response:
                heard[name] = _moments(output)

    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: after_conv(name, output)
        )
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ] + [
        layer.register_forward_hook(lambda _layer, inputs, output: after_norm(inputs[0], output))
        for layer in net.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _moments(response: Tensor) -> Tensor:
    """Mean and mean square (2,) float64 on the CPU."""
    variance, mean = torch.var_mean(response.float(), correction=0)
    variance, mean = variance.cpu().double(), mean.cpu().double()
    return torch.stack((mean, variance + mean**2))


def responses_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure `checkpoints` on `examples` held-out pictures; returns the report in `out`.

    `data` says where the set lies, where it is not what the recipes name. Raises ConfigError,
    DataError, CheckpointError, and ValueError for a net whose outputs are no numbers.
    """
    from resnets.study.responses_page import responses_page

    subjects = load_subjects(checkpoints, data, loading)
    split = draw_split(subjects[0].net, data, "held-out", examples, SEED)
    nets, protocol, doubts = [], [], {}
    for subject in subjects:
        pictures = show(split, subject.net, device)
        measured = NetResponses(
            subject.label, subject.net.spec, responses(subject.net, pictures.batches)
        )
        check_finite(measured.mean, subject.where)
        nets.append(measured)
        error = pictures.evaluate(subject.net).top1_error
        doubts[subject.label] = caution(
            subject.where, error, len(pictures.classes), errors_of="held-out"
        )
        protocol.append(f"{subject.label}: {pictures.protocol}.")
    words = ["resnets", "study", "responses", *map(str, checkpoints), "--examples", str(examples)]
    words += ["--data", data] if data is not None else []
    page = responses_page(
        nets,
        measured=" ".join(protocol),
        commands=(shlex.join(words),),
        environment=host.describe(pictures.device),
        caution=cautions(doubts),
    )
    return write_report(page, out)
