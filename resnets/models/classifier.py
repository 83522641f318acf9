"""`ImageClassifier`, the base class of all models: logits, named stages, activation checkpointing.

`init_weights` initializes the weights.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnets.config import SOFTMAX, ModelSpec, Recipe
from resnets.models.norm import BATCH_NORMS
from resnets.utils.imports import qualified_name

NAIVE_STD = 0.01
NEW_HEAD = ", new head"  # suffix of `ImageClassifier.origin`


class ImageClassifier(nn.Module, ABC):
    """A sequence of named stages and a head that returns logits.

    Stages are submodules named by `stage_names` (`stem`, `stage1`, ...), so that a detector can
    apply some of them to whole images and the rest to regions. `head` is the linear layer that
    returns the logits. Any input size works, because features are pooled to a fixed size.
    `recompute` enables activation checkpointing: about a third more computation for less memory,
    see `_run_stage`. `custom` contains the `block` and `norm` that replace those of the spec. A
    loaded model also has its preprocessing and postprocessing, class names, recipe and origin.
    """

    stage_names: tuple[str, ...]
    input_layer: ClassVar[str]
    head: nn.Linear

    def __init__(self, spec: ModelSpec, **custom: Callable[..., nn.Module] | None) -> None:
        super().__init__()
        spec.check()
        self.spec = spec
        self.custom: dict[str, Any] = {name: part for name, part in custom.items() if part}
        self.recompute = False
        self.preprocess: Any = None
        self.postprocess = SOFTMAX
        self.classes: tuple[str, ...] = ()
        self.recipe: Recipe | None = None
        self.fingerprint: Any = None  # `data.splits.image_record.Fingerprint` of the run's images
        self.origin = "random initialization"

    @property
    def custom_names(self) -> dict[str, str]:
        """Where custom parts are defined, such as {"block": "my_blocks.SEBlock"}."""
        return {key: qualified_name(part) for key, part in self.custom.items()}

    def blocks(self) -> dict[str, nn.Module]:
        """Residual or plain blocks by name ("stage1.0"), from input to output."""
        return {}

    @abstractmethod
    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for the feature maps (B, C, H, W) of `forward_features`."""

    @abstractmethod
    def _new_head(self, num_classes: int) -> nn.Linear:
        """Return a head for `num_classes` with uninitialized weights."""

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for the last stage's output (B, C, H, W)."""
        return self.forward_head(features)

    def stages(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Return the outputs of the stages up to `last` (default all) for images (B, C, H, W)."""
        outputs = {}
        for name in self.stage_names:
            x = outputs[name] = self._run_stage(self.get_submodule(name), x)
            if name == last:
                break
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Return feature maps (B, C, H', W') before pooling for images `x` (B, C, H, W), as timm.

        This is the output of the last stage; for pre-activation networks after the final norm and
        relu.
        """
        return self.stages(x)[self.stage_names[-1]]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) for images `x` (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one for `num_classes`, as in timm; 0 removes it.

        Its weights are initialized as those of a new model, with the device and dtype of the old
        ones. `.classes` becomes (): set it to the new names before `resnets.predict`. Without a
        head the model returns the head's input (B, D). Raises ConfigError for a negative number.
        """
        if num_classes == 0:
            self.head = nn.Identity()  # type: ignore[assignment]
        else:
            self.spec = dataclasses.replace(self.spec, num_classes=num_classes)
            self.head = self._new_head(num_classes)
            _init_layer(self, self.head)
            self.head.to(next(self.parameters())).train(self.training)
        self.classes, self.postprocess = (), SOFTMAX
        self.origin = f"{self.origin.removesuffix(NEW_HEAD)}{NEW_HEAD}"

    def save(
        self, folder: str | Path, *, classes: Sequence[str] | None = None, preprocess: Any = None
    ) -> None:
        """Write weights and config.json to a new folder for `resnets.load` and all commands.

        Args:
            folder: New folder.
            classes: Class names; default: `.classes`.
            preprocess: A `Preprocess` or `Preprocessor`; default: `.preprocess`.

        If class names or preprocessing are missing, loading the folder warns about it. Raises
        ConfigError if the folder is not empty.
        """
        # Imported by name: weights/ depends on models/, which must not import it.
        folder_module = importlib.import_module("resnets.weights.folder")
        folder_module.save_model(self, Path(folder), classes=classes, preprocess=preprocess)

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Run one stage; with `recompute`, store only the inputs of segments of its blocks.

        A block stores about four feature maps for its backward pass, a segment boundary one. With n
        blocks in segments of k, n/k boundaries and the 4k maps of the current segment are in
        memory, which is minimal at k = sqrt(n) / 2. For the 200 blocks of a stage of
        cifar-resnet1202, k = 7 stores 57 of 800 maps; one block (k = 1) stores 204, and a whole
        stage (k = n) all 800 in its backward pass. The peak of a training step of batch size 128 is
        about 1 GiB instead of 11 (float32).
        """
        if not (
            self.recompute
            and self.training
            and torch.is_grad_enabled()
            and isinstance(stage, nn.Sequential)  # not the stem
        ):
            return stage(x)
        length = max(2, round(math.sqrt(len(stage)) / 2))
        for start in range(0, len(stage), length):
            # Custom blocks may draw random numbers, as stochastic depth does.
            random = self.spec.drop_path + self.spec.shortcut_dropout > 0 or bool(self.custom)
            x = _checkpoint_segment(stage[start : start + length], x, random)
        return x


def _checkpoint_segment(segment: nn.Sequential, x: Tensor, random: bool) -> Tensor:
    """Return `segment(x)`, which is recomputed in the backward pass.

    random: whether the segment draws random numbers, which must be equal when it is recomputed.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _preserve_running_stats(segment)

    # A compiled graph updates the statistics only in its forward part, and accepts no contexts.
    options: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": contexts}
    return checkpoint(segment, x, use_reentrant=False, preserve_rng_state=random, **options)


@contextmanager
def _preserve_running_stats(module: nn.Module) -> Iterator[None]:
    """Context in which batch norms update copies of their statistics, for recomputed batches."""
    saved = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, BATCH_NORMS) and norm.training
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in saved:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in saved:
            setattr(norm, name, buffer)


def init_weights(model: ImageClassifier) -> None:
    """Initialize all convolution and linear weights according to `model.spec.init`; biases are 0.

    - "he": Gaussian with standard deviation sqrt(2 / fan_in), which preserves the variance through
      relu layers (He et al., ICCV 2015). No relu follows the head: sqrt(1 / fan_in).
    - "naive": Gaussian with standard deviation 0.01 (Krizhevsky et al. 2012), for any fan-in.

    Norms keep weight 1 and bias 0. With Fixup the head is zero.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            _init_layer(model, layer)


def _init_layer(model: ImageClassifier, layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> None:
    fan_in = layer.weight[0].numel()
    gain = 1.0 if layer is model.head else 2.0
    std = math.sqrt(gain / fan_in) if model.spec.init == "he" else NAIVE_STD
    nn.init.normal_(layer.weight, std=std)
    if layer is model.head and model.spec.branch_scale == "fixup":
        nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
