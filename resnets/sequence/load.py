"""The transformer of a run, and text that it writes."""

from __future__ import annotations

from pathlib import Path

import torch

from resnets.config import ConfigError
from resnets.models.block_config import eval_mode
from resnets.models.transformer.network import Transformer
from resnets.sequence.text import encode
from resnets.weights.checkpoint.find import open_checkpoint
from resnets.weights.load import load_weights


def load(where: str | Path) -> Transformer:
    """The transformer of a run folder or checkpoint, in eval mode, float32, on the CPU.

    As `resnets.load` does for classifiers; it carries `.classes` (its characters), `.recipe` and
    `.origin`. Raises CheckpointError, and ConfigError for a model of another task.
    """
    checkpoint = open_checkpoint(where)
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task != "text":
        raise ConfigError(f"{where}: is for task {recipe.task}, not a model of text")
    model = Transformer(recipe.transformer)
    averaged = checkpoint.group("ema")
    load_weights(model, averaged or checkpoint.group("model"), path)
    model.classes, model.recipe = checkpoint.classes, recipe
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    model.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return model.eval()


def generate(
    model: Transformer, prompt: str, count: int, *, temperature: float = 1.0, seed: int = 0
) -> str:
    """`prompt` and `count` further characters, each drawn from what `model` predicts.

    temperature: divides the logits; 0 takes the most probable character. Raises DataError for
    characters that the model does not know, and for an empty prompt.
    """
    if not prompt:
        raise ConfigError("prompt: give at least one character")
    device = next(model.parameters()).device
    codes = encode(prompt, model.classes, "prompt").tolist()
    random = torch.Generator().manual_seed(seed)
    with eval_mode(model), torch.inference_mode():
        for _ in range(count):
            given = torch.tensor([codes[-model.spec.context :]], device=device)
            logits = model(given)[0, -1].float().cpu()
            if temperature == 0:
                codes.append(int(logits.argmax()))
            else:
                shares = (logits / temperature).softmax(-1)
                codes.append(int(torch.multinomial(shares, 1, generator=random)))
    return "".join(model.classes[code] for code in codes)
