"""The graph of every artifact, uint8 images in, logits out, and folding of its batch norms.

In eval mode a batch norm scales and shifts each channel, which the preceding convolution can do
too: same outputs, fewer passes over memory. A norm after an addition (the first of a pre-activation
block) has no convolution to fold into and stays.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier
from resnets.models.norm import strip_norm
from resnets.utils.machine.precision import DTYPES

if TYPE_CHECKING:
    from resnets.detect.models.base import DetectionModel

INPUT, OUTPUT = "images", "logits"


class _Normalization(nn.Module):
    """uint8 images (B, H, W, C) to normalized float32 images (B, C, H, W).

    channels_first: NCHW memory format, which gives simpler graphs for other runtimes.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, preprocess: Preprocessor, *, channels_first: bool) -> None:
        super().__init__()
        mean, scale = preprocess.mean_and_scale(torch.device("cpu"))
        self.bgr = preprocess.spec.channel_order == "bgr"
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        self.channels_first = channels_first

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32."""
        images = images.permute(0, 3, 1, 2)  # channels last in memory
        images = images.contiguous() if self.channels_first else images
        images = images.flip(1) if self.bgr else images
        return (images.float() - self.mean) * self.scale


class InferenceModule(_Normalization):
    """A folded model with its normalization: uint8 (B, size, size, C) to float32 (B, K).

    precision: of the model, as resolved by `pick_precision`; images are normalized in float32.
    """

    def __init__(
        self, model: ImageClassifier, precision: str = "float32", *, channels_first: bool = False
    ) -> None:
        super().__init__(model.preprocess, channels_first=channels_first)
        self.model = fold_batch_norms(model)
        self.dtype = DTYPES[precision]
        self.model = self.model.to(self.dtype)
        if not channels_first:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, size, size, C) uint8 -> logits (B, K) float32."""
        logits: Tensor = self.model(self.normalize(images).to(self.dtype))
        return logits.float()


class VisionModule(_Normalization):
    """A detector, localizer or segmenter with its normalization, for one image."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__(model.preprocess, channels_first=True)
        self.model = copy.deepcopy(model)
        self.eval()

    def forward(self, images: Tensor, size: Tensor) -> dict[str, Tensor]:
        """Return `DetectionModel.outputs` for an image (1, H, W, C) uint8.

        The image is padded at right and bottom to multiples of `divisor`. size: int64 (2,), height
        and width without the padding.
        """
        image = self.normalize(images)
        if self.model.divisor > 1:  # the padding must be zero after normalization
            y, x = (torch.arange(side) for side in image.shape[-2:])
            image = image * (y < size[0])[:, None] * (x < size[1])
        outputs = self.model.outputs(image, size)
        if "labels" in outputs:  # rows without an object have score -1
            rows = torch.nonzero(outputs["scores"] > 0)[:, 0]
            outputs = {name: values[rows] for name, values in outputs.items()}
        return outputs


class _ReadCounter(TorchFunctionMode):
    """Counts the operations that read each of `tensors`, in this thread.

    Tracing with torch.fx would give the same, but patches `nn.Module` for the whole process, so
    that models in other threads fail (those of a server that loads another model).
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}  # by id, which is unique while they are alive
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):  # reading a shape or device does not count
            reads = (id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
            self.count.update(number for number in reads if number in self.tensors)
        return out


def fold_batch_norms(model: ImageClassifier) -> ImageClassifier:
    """Return a copy of `model` in eval mode with norms folded into preceding convolutions.

    Of folded norms only addition and relu remain, and their convolutions get biases; layer names
    are unchanged. `model` itself is not modified.
    """
    folded = copy.deepcopy(model).eval()
    layers = dict(folded.named_modules())
    with torch.no_grad():
        for norm, convolution in _foldable_norms(folded).items():
            fused = fuse_conv_bn_eval(layers[convolution], layers[norm])
            folded.set_submodule(convolution, fused)
            folded.set_submodule(norm, strip_norm(layers[norm]))
    return folded


def _foldable_norms(model: ImageClassifier) -> dict[str, str]:
    """Map each norm that is the only reader of a convolution's output to that convolution.

    Runs the model on one image. (The meta device would avoid the computation, but makes torch
    import its compiler, which takes longer than any image.)
    """
    counter = _ReadCounter()
    produced_by: dict[int, str] = {}
    reads: dict[str, int] = {}
    hooks = []

    def record(name: str, out: Tensor) -> None:
        produced_by[id(out)], counter.tensors[id(out)] = name, out

    def add_hook(name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(lambda _, x, out: record(name, out)))
        elif isinstance(layer, nn.BatchNorm2d):
            hook = layer.register_forward_pre_hook(lambda _, x: reads.update({name: id(x[0])}))
            hooks.append(hook)

    for name, layer in model.named_modules():
        add_hook(name, layer)
    spec, device = model.spec, next(model.parameters()).device
    image = torch.zeros(1, spec.in_channels, spec.input_size, spec.input_size, device=device)
    try:
        with counter:
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: produced_by[tensor]
        for name, tensor in reads.items()
        if tensor in produced_by and counter.count[tensor] == 1
    }
