"""Python objects that replace the model, loss or data of a run's recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from resnets.config import ConfigError, Recipe
from resnets.data.dataset.source import Source
from resnets.models.custom_model import MODEL_KEYS, MakeModel
from resnets.utils.imports import PREFIX, qualified_name

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CustomParts:
    """Custom Python objects of a run; None where the recipe's own parts are used.

    Attributes:
        model: An `nn.Module` that returns logits (B, K), or a function that creates one from a
            `ModelSpec`.
        loss: A function of logits (B, K) and classes (B,), see `loss.custom_loss`.
        data: The data set.

    The recipe of a run with custom parts contains their names in `custom` and `data.source`.
    """

    model: nn.Module | MakeModel | None = None
    loss: Loss | None = None
    data: Source | None = None

    def check(self, recipe: Recipe) -> None:
        """Raise ConfigError if parts of a run of `recipe` are missing or do not apply to it."""
        custom = recipe.custom or {}
        if self.model is None and (missing := [custom[key] for key in MODEL_KEYS if key in custom]):
            raise ConfigError(
                f"the run's network is from outside the package ({', '.join(missing)}); give it as"
                " model=..."
            )
        if self.loss is None and "loss" in custom:
            raise ConfigError(
                f"the run's loss is from outside the package ({custom['loss']}); give it as"
                " loss=..."
            )
        if (self.model or self.loss or self.data) and recipe.task != "classify":
            raise ConfigError(
                f"task {recipe.task}: does not accept a model, loss or data as Python objects"
            )
        if self.data is None and recipe.data.source.startswith(PREFIX):
            name = recipe.data.source.removeprefix(PREFIX)
            raise ConfigError(
                f"the run's data set is a Python object ({name}); give it as data=..."
            )
        if self.model is not None and recipe.weights is not None:
            raise ConfigError(
                "weights: only for models of the package; load initial weights into the model that "
                "you pass, and set weights=None"
            )
        if self.loss is not None:
            unused = (
                ("label_smoothing", recipe.loss.label_smoothing > 0, "0"),
                ("class_weights", recipe.loss.class_weights != "none", "none"),
            )
            for name, is_set, off in unused:
                if is_set:
                    raise ConfigError(
                        f"loss.{name}: has no effect with a custom loss; set it to {off}"
                    )

    def add_names(self, recipe: Recipe, model_names: dict[str, str]) -> Recipe:
        """Return `recipe` with the names of these parts in `custom`."""
        names = dict(model_names)
        if self.loss is not None:
            names["loss"] = qualified_name(self.loss)
        return replace(recipe, custom=names or None)

    def describe_changes(self, recipe: Recipe) -> list[str]:
        """Return notes for a resumed run: parts whose names differ from those in the recipe."""
        before = (recipe.custom or {}).get("loss", recipe.loss.kind)
        now = recipe.loss.kind if self.loss is None else qualified_name(self.loss)
        return [] if now == before else [f"loss: {before} until here, {now} from here on"]
