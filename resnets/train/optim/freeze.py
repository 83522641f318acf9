"""Which parts of a net with pretrained weights learn, when and how fast."""

from __future__ import annotations

from torch import nn

from resnets.config import FinetuneSpec
from resnets.models import Net
from resnets.models.norm import BATCH_NORMS


class FreezeSchedule:
    """What `FinetuneSpec` says, done to one model over a run of `total` steps.

    Pretrained is the first `Net` in the model, but for its head; a detector's own layers are new
    as a head is. What learns at a step follows from the step alone, so a resumed run agrees.
    """

    def __init__(self, model: nn.Module, spec: FinetuneSpec, total: int) -> None:
        self._model = model
        self._head_only = round(spec.head_first * total)
        self._decay = spec.layer_decay
        self._body = _body(model)
        self._norms = [
            module
            for part in self._body
            for module in part.modules()
            if isinstance(module, BATCH_NORMS) and spec.freeze_norm
        ]
        self._frozen = {id(weight) for norm in self._norms for weight in norm.parameters()}
        self._body_learns: bool | None = None

    @property
    def frozen_norms(self) -> list[nn.Module]:
        """The norms that keep their statistics and weights."""
        return list(self._norms)

    def rates(self) -> dict[nn.Parameter, float]:
        """For each parameter of the model its share of the schedule's rate.

        1 for what is new; `layer_decay` for the part before the head, its square for the part
        before that, and so on to the stem. A norm that closes the last stage goes with it.
        """
        rates = dict.fromkeys(self._model.parameters(), 1.0)
        rate = self._decay
        for part in reversed(self._body):
            rates |= dict.fromkeys(part.parameters(), rate)
            if not isinstance(part, BATCH_NORMS):
                rate *= self._decay
        return rates

    def begin(self, step: int) -> None:
        """Bring the model into the modes of update number `step` (0-based).

        Frozen norms and, while only the head learns, the whole pretrained part are in eval mode
        and take no gradient.
        """
        self._model.train()
        body_learns = step >= self._head_only
        for part in self._norms if body_learns else self._body:
            part.eval()
        if body_learns == self._body_learns:
            return
        self._body_learns = body_learns
        for part in self._body:
            for parameter in part.parameters():
                parameter.requires_grad_(body_learns and id(parameter) not in self._frozen)


def _body(model: nn.Module) -> list[nn.Module]:
    """The parts of the model's net that hold pretrained weights, from input to output."""
    net = next((module for module in model.modules() if isinstance(module, Net)), None)
    if net is None:
        return []
    return [part for part in net.children() if part is not net.head and list(part.parameters())]
