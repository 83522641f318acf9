"""The formats that can be read and written: one rules function each.

torchvision, timm (residual nets are named alike in both, VGG is not), the CIFAR-10 nets in
circulation, detectron2 and its ancestor Detectron, the authors' Caffe models, Keras Applications.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from resnets.config import ModelSpec, Preprocess
from resnets.weights.rules import Format, Rules, Tensors

# x - mean, in 0..255 and BGR: what nets from Caffe want, wherever they have gone since.
BYTE = 1 / 255
RESNET_MEAN = (103.0626, 115.9029, 123.1516)  # mean of the authors' ResNet_mean.binaryproto, BGR
DETECTRON_MEAN = (103.53, 116.28, 123.675)
KERAS_MEAN = (103.939, 116.779, 123.68)
KERAS_EPS = 1.001e-5

BRANCHES = ((1, "a"), (2, "b"), (3, "c"))  # our conv1..conv3 are Caffe's branch2a..branch2c
BLOCK = re.compile(r"(res|bn|scale)(\d)([a-z])(\d*)_branch(.+)")  # res4b22_branch2c/0
PLAIN_BLOCK = re.compile(r"(res|bn|scale)(\d)_(\d+)_branch(.+)")  # res4_22_branch2c/0
LETTERED = 6  # the longest stage of ResNet-50; in longer nets, stages 3 and 4 count with numbers


def caffe_preprocess(mean: tuple[float, ...]) -> Preprocess:
    """BGR in 0..255 less `mean`: the authors' preparation (224 px of a shorter side of 256)."""
    means = tuple(value * BYTE for value in mean)
    return Preprocess(mean=means, std=(BYTE,) * 3, channel_order="bgr")


def _is_resnet(spec: ModelSpec) -> bool:
    return spec.block in ("basic", "bottleneck")


def _is_authors(spec: ModelSpec) -> bool:
    """Nets of bottlenecks with projections on an ImageNet stem, as the authors released."""
    return spec.block == "bottleneck" and spec.shortcut == "B" and spec.groups == 1


TORCHVISION_RESNET: Rules = (
    ("stem.conv.*", "conv1.*"),
    ("stem.norm.*", "bn1.*"),
    ("stage#.#.conv#.*", "layer#.#.conv#.*"),
    ("stage#.#.norm#.*", "layer#.#.bn#.*"),
    ("stage#.#.shortcut.conv.*", "layer#.#.downsample.0.*"),
    ("stage#.#.shortcut.norm.*", "layer#.#.downsample.1.*"),
    ("head.*", "fc.*"),
)


def _torchvision(spec: ModelSpec) -> Rules | None:
    """torchvision.models.resnet and .vgg; there are no pre-activation nets."""
    if spec.block == "vgg":
        head = (("fc1.*", "classifier.0.*"), ("fc2.*", "classifier.3.*"))
        return (*_vgg_features(spec), *head, ("head.*", "classifier.6.*"))
    return TORCHVISION_RESNET if _is_resnet(spec) else None


def _vgg_features(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """torchvision numbers convolutions, norms, relus and pools in one list, `features`."""
    normed = spec.norm == "batch"
    index = 0
    for stage, depth in enumerate(spec.depths, start=1):
        for unit in range(depth):
            yield f"stage{stage}.{unit}.conv.*", f"features.{index}.*"
            if normed:
                yield f"stage{stage}.{unit}.norm.*", f"features.{index + 1}.*"
            index += 3 if normed else 2
        index += 1


def _timm(spec: ModelSpec) -> Rules | None:
    """timm's resnet and vgg. Its pre-activation nets compute otherwise: no norm before the pool."""
    if spec.block == "vgg":
        head = (("fc1.*", "pre_logits.fc1.*"), ("fc2.*", "pre_logits.fc2.*"))
        return (*_vgg_features(spec), *head, ("head.*", "head.fc.*"))
    return TORCHVISION_RESNET if _is_resnet(spec) else None


def _timm_encode(tensors: Tensors) -> Tensors:
    """VGG's first two linear layers are convolutions there, of 7x7 and 1x1."""
    for name, size in (("pre_logits.fc1.weight", 7), ("pre_logits.fc2.weight", 1)):
        if name in tensors:
            tensors[name] = tensors[name].unflatten(1, (-1, size, size))
    return tensors


def _timm_decode(tensors: Tensors) -> Tensors:
    for name in ("pre_logits.fc1.weight", "pre_logits.fc2.weight"):
        if name in tensors:
            tensors[name] = tensors[name].flatten(1)
    return tensors


def _cifar(spec: ModelSpec) -> Rules | None:
    """CIFAR-10 nets as most repositories name them; option A has no tensors in its shortcuts."""
    if not _is_resnet(spec):
        return None
    shortcut = (
        ("stage#.#.shortcut.conv.*", "layer#.#.shortcut.0.*"),
        ("stage#.#.shortcut.norm.*", "layer#.#.shortcut.1.*"),
    )
    return (*TORCHVISION_RESNET[:4], *shortcut, ("head.*", "linear.*"))


def _cifar_preprocess(spec: ModelSpec) -> Preprocess | None:
    """ImageNet's constants on 32 px, as the repository of the option A nets in circulation has it.

    (akamaster/pytorch_resnet_cifar10, trainer.py.) Others normalise in other ways.
    """
    return Preprocess(size=32, resize=32) if spec.shortcut == "A" else None


def _detectron2(spec: ModelSpec) -> Rules | None:
    """detectron2.modeling.backbone.resnet; a backbone has no head."""
    if not _is_resnet(spec):
        return None
    return (
        ("stem.conv.*", "stem.conv1.*"),
        ("stem.norm.*", "stem.conv1.norm.*"),
        ("stage#.#.conv#.*", "res#+1.#.conv#.*"),
        ("stage#.#.norm#.*", "res#+1.#.conv#.norm.*"),
        ("stage#.#.shortcut.conv.*", "res#+1.#.shortcut.*"),
        ("stage#.#.shortcut.norm.*", "res#+1.#.shortcut.norm.*"),
        ("head.*", "linear.*"),
    )


def _detectron2_decode(tensors: Tensors) -> Tensors:
    """Its converter from torchvision files the head under the stem."""
    return {name.replace("stem.fc.", "linear."): tensor for name, tensor in tensors.items()}


def _leaves(ours: str, theirs: str, leaves: Mapping[str, str | None]) -> Rules:
    """One rule for each of our `leaves`, whose last parts they call otherwise."""
    return tuple(
        (f"{ours}.{our}", None if their is None else theirs + their)
        for our, their in leaves.items()
    )


def _norm_leaves(weight: str, bias: str, mean: str, var: str) -> dict[str, str | None]:
    named = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    return named | {"num_batches_tracked": None}


def _branches(conv: Mapping[str, str | None], norm: Mapping[str, str | None], bn: str) -> Rules:
    """The blocks of Caffe and Detectron, res2_0_branch2a and so on; `bn` names their norms."""
    rules: list[tuple[str, str | None]] = []
    for part, branch in (*((f"conv{k}", f"2{letter}") for k, letter in BRANCHES), ("", "1")):
        block = "stage#.#." + (part or "shortcut.conv")
        normed = block.replace("conv", "norm")
        rules += _leaves(block, f"res#+1_#_branch{branch}", conv)
        rules += _leaves(normed, bn.format(branch=branch), norm)
    return rules


def _detectron(spec: ModelSpec) -> Rules | None:
    """Detectron (Caffe2) and with it the MSRA backbones of detectron2's model zoo."""
    if not _is_authors(spec):
        return None
    conv = {"weight": "_w", "bias": "_b"}
    norm = _norm_leaves("_bn_s", "_bn_b", "_bn_rm", "_bn_riv")
    return (
        *_leaves("stem.conv", "conv1", conv),
        *_leaves("stem.norm", "res_conv1", norm),
        *_branches(conv, norm, "res#+1_#_branch{branch}"),
        *_leaves("head", "fc1000", conv),
    )


def _detectron_decode(tensors: Tensors) -> Tensors:
    """Norms come folded into scale and shift, convolutions with biases of zero, for Caffe2's sake.

    A scale and shift is a norm of mean 0 and variance 1 - eps.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("_momentum"):
            continue
        if re.fullmatch(r"(conv1|res\d_\d+_branch\w+?)_b", name) and not name.endswith("_bn_b"):
            if tensor.any():
                found[name] = tensor
            continue
        found[re.sub(r"^pred_(?=[wb]$)", "fc1000_", name)] = tensor
        if name.endswith("_bn_s") and name.replace("_bn_s", "_bn_rm") not in tensors:
            found[name.replace("_bn_s", "_bn_rm")] = torch.zeros_like(tensor)
            found[name.replace("_bn_s", "_bn_riv")] = torch.full_like(tensor, 1 - 1e-5)
    return found


def _caffe(spec: ModelSpec) -> Rules | None:
    """The authors' models: blobs by layer and number, a norm in two layers (BatchNorm, Scale)."""
    if not _is_authors(spec):
        return None
    conv = {"weight": "/0", "bias": "/1"}
    bn = _norm_leaves("/weight", "/bias", "/0", "/1")
    return (
        *_leaves("stem.conv", "conv1", conv),
        *_leaves("stem.norm", "bn_conv1", bn),
        *_branches(conv, bn, "bn#+1_#_branch{branch}"),
        *_leaves("head", "fc1000", conv),
    )


def _caffe_encode(tensors: Tensors) -> Tensors:
    """Split norms into their two layers, with a moving-average factor of 1, and letter the blocks.

    Their ResNet-50 calls its blocks a, b, c, ...; longer nets have a, b1, b2, ... in stages 3, 4.
    """
    longest = max(int(found[3]) + 1 for name in tensors if (found := PLAIN_BLOCK.match(name)))
    numbered = ("3", "4") if longest > LETTERED else ()

    def letter(found: re.Match[str]) -> str:
        kind, stage, block, branch = found[1], found[2], int(found[3]), found[4]
        name = f"b{block}" if block and stage in numbered else chr(ord("a") + block)
        return f"{kind}{stage}{name}_branch{branch}"

    split = {}
    for name, tensor in tensors.items():
        layer, _, leaf = PLAIN_BLOCK.sub(letter, name).rpartition("/")
        if leaf in ("weight", "bias"):
            layer, leaf = f"scale{layer.removeprefix('bn')}", "0" if leaf == "weight" else "1"
        split[f"{layer}/{leaf}"] = tensor
        if layer.startswith("bn"):
            split[f"{layer}/2"] = torch.ones(1)
    return split


def _caffe_decode(tensors: Tensors) -> Tensors:
    """Join both layers of each norm; their statistics are sums that the factor (blob 2) divides."""

    def number(found: re.Match[str]) -> str:
        kind, stage, letter, digits, branch = found.groups()
        return f"{kind}{stage}_{digits or ord(letter) - ord('a')}_branch{branch}"

    joined = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition("/")
        factor = tensors.get(f"{layer}/2")
        if layer.startswith("bn") and factor is not None:
            if leaf == "2":
                continue
            tensor = tensor / factor if factor.any() else torch.zeros_like(tensor)
        elif layer.startswith("scale"):
            layer, leaf = f"bn{layer.removeprefix('scale')}", "weight" if leaf == "0" else "bias"
        joined[BLOCK.sub(number, f"{layer}/{leaf}")] = tensor
    return joined


def _keras(spec: ModelSpec) -> Rules | None:
    """keras.applications.ResNet50, 101 and 152 (not V2)."""
    if not _is_authors(spec):
        return None
    conv = {"weight": "/kernel", "bias": "/bias"}
    norm = _norm_leaves("/gamma", "/beta", "/moving_mean", "/moving_variance")
    return (
        *_leaves("stem.conv", "conv1_conv", conv),
        *_leaves("stem.norm", "conv1_bn", norm),
        *_leaves("stage#.#.conv#", "conv#+1_block#+1_#_conv", conv),
        *_leaves("stage#.#.norm#", "conv#+1_block#+1_#_bn", norm),
        *_leaves("stage#.#.shortcut.conv", "conv#+1_block#+1_0_conv", conv),
        *_leaves("stage#.#.shortcut.norm", "conv#+1_block#+1_0_bn", norm),
        *_leaves("head", "predictions", conv),
    )


def _keras_encode(tensors: Tensors) -> Tensors:
    """Kernels are (k, k, in, out) there, and (in, out)."""
    return {
        name: tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else _transposed(tensor)
        for name, tensor in tensors.items()
    }


def _keras_decode(tensors: Tensors) -> Tensors:
    return {
        name: tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else _transposed(tensor)
        for name, tensor in tensors.items()
    }


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t() if tensor.dim() == 2 else tensor


V1 = {"stride_in": "1x1"}
FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format("torchvision", _torchvision),
        Format("timm", _timm, _timm_encode, _timm_decode),
        Format("cifar", _cifar, preprocess=_cifar_preprocess),
        Format("detectron2", _detectron2, decode=_detectron2_decode),
        Format(
            "detectron",
            _detectron,
            decode=_detectron_decode,
            needs=V1,
            preprocess=lambda _spec: caffe_preprocess(DETECTRON_MEAN),
        ),
        Format(
            "caffe",
            _caffe,
            _caffe_encode,
            _caffe_decode,
            needs=V1 | {"stem_pool": "ceil"},
            preprocess=lambda _spec: caffe_preprocess(RESNET_MEAN),
        ),
        Format(
            "keras",
            _keras,
            _keras_encode,
            _keras_decode,
            needs=V1 | {"norm_eps": KERAS_EPS},
            preprocess=lambda _spec: caffe_preprocess(KERAS_MEAN),
        ),
    )
}
