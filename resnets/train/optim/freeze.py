"""Fine-tuning: which layers of a pretrained model are trained, when, at what learning rate."""

from __future__ import annotations

from torch import nn

from resnets.config import FinetuneSpec
from resnets.models import ImageClassifier
from resnets.models.norm import BATCH_NORMS


class FreezeSchedule:
    """Applies a `FinetuneSpec` to a model over a run of `total` steps.

    The pretrained part is the first `ImageClassifier` in the model without its head; other layers
    of a detector count as new. The trained layers depend only on the step, so a resumed run equals
    an uninterrupted one. Parameters that do not require gradients initially never do.
    """

    def __init__(self, model: nn.Module, spec: FinetuneSpec, total: int) -> None:
        self._model = model
        self._head_only = round(spec.head_first * total)
        self._decay = spec.layer_decay
        self._body = _pretrained_parts(model)
        self._norms = [
            module
            for part in self._body
            for module in part.modules()
            if isinstance(module, BATCH_NORMS) and spec.freeze_norm
        ]
        self._frozen = {id(weight) for norm in self._norms for weight in norm.parameters()}
        self._frozen |= {
            id(weight)
            for part in self._body
            for weight in part.parameters()
            if not weight.requires_grad
        }
        self._body_trains: bool | None = None
        self._modes: list[tuple[nn.Module, bool]] = []  # modes set by the last `apply`

    @property
    def frozen_norms(self) -> list[nn.Module]:
        """Norms whose statistics and weights are frozen."""
        return list(self._norms)

    def lr_scales(self) -> dict[nn.Parameter, float]:
        """Return the factor on the schedule's learning rate of each parameter of the model.

        1 for new layers, `layer_decay` for the stage before the head, its square for the stage
        before that, and so on to the stem. A norm after the last stage has the same factor as the
        stage.
        """
        lr_scales = dict.fromkeys(self._model.parameters(), 1.0)
        scale = self._decay
        for part in reversed(self._body):
            lr_scales |= dict.fromkeys(part.parameters(), scale)
            if not isinstance(part, BATCH_NORMS):
                scale *= self._decay
        return lr_scales

    def apply(self, step: int) -> None:
        """Set training modes and `requires_grad` for step `step` (0-based).

        Frozen norms are in eval mode and require no gradient. While only the head is trained, so is
        the whole pretrained part.
        """
        body_trains = step >= self._head_only
        changed = body_trains != self._body_trains
        if not changed and all(module.training is mode for module, mode in self._modes):
            return  # most steps; setting the modes of thousands of modules is slow
        self._model.train()
        for part in self._norms if body_trains else self._body:
            part.eval()
        self._modes = [(module, module.training) for module in self._model.modules()]
        if not changed:
            return
        self._body_trains = body_trains
        for part in self._body:
            for parameter in part.parameters():
                parameter.requires_grad_(body_trains and id(parameter) not in self._frozen)


def _pretrained_parts(model: nn.Module) -> list[nn.Module]:
    """Return the parts of the model that have pretrained weights, from input to output."""
    net = next((module for module in model.modules() if isinstance(module, ImageClassifier)), None)
    # A custom network brings its own weights.
    if net is None or not net.stage_names:
        return []
    return [part for part in net.children() if part is not net.head and list(part.parameters())]
