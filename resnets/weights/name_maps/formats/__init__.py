"""The formats that can be read and written, with a function for the rules of each.

torchvision, timm (residual models have the same names in both, VGG does not), common CIFAR-10
models, detectron2, Hugging Face's transformers, MMPretrain, a torchvision model in an
`nn.Sequential`; and those of `caffe` and `bit` beside this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from resnets.config import ModelSpec, Preprocess
from resnets.weights.name_maps.formats.bit import BIT_NPZ, BIT_PYTORCH, BIT_TRANSFORMERS
from resnets.weights.name_maps.formats.caffe import CAFFE, DETECTRON, KERAS
from resnets.weights.name_maps.formats.spec import Format, Rules, Tensors

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
    """torchvision.models.resnet and .vgg; it has no pre-activation models."""
    if spec.is_vgg:
        head = (("fc1.*", "classifier.0.*"), ("fc2.*", "classifier.3.*"))
        return (*_vgg_features(spec), *head, ("head.*", "classifier.6.*"))
    return TORCHVISION_RESNET if spec.is_resnet else None


def _vgg_features(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yield rules: torchvision numbers convolutions, norms, relus and pools in `features`."""
    has_norms = spec.norm == "batch"
    index = 0
    for stage, depth in enumerate(spec.depths, start=1):
        for unit in range(depth):
            yield f"stage{stage}.{unit}.conv.*", f"features.{index}.*"
            if has_norms:
                yield f"stage{stage}.{unit}.norm.*", f"features.{index + 1}.*"
            index += 3 if has_norms else 2
        index += 1


def _timm(spec: ModelSpec) -> Rules | None:
    """timm's resnet, resnetv2 and vgg.

    timm has no pre-activation models with a norm in the stem, as in He et al. (ECCV 2016).
    """
    if spec.is_vgg:
        head = (("fc1.*", "pre_logits.fc1.*"), ("fc2.*", "pre_logits.fc2.*"))
        return (*_vgg_features(spec), *head, ("head.*", "head.fc.*"))
    if spec.scales_paths or spec.has_speedrun_layers or spec.order not in ("", "preact"):
        return None
    if spec.is_preact:
        return _timm_v2(spec)
    deep = TIMM_DEEP_STEM if len(spec.stem_widths) > 1 else ()
    pooled = TIMM_POOLED if spec.shortcut_pool != "none" else ()
    return (*deep, *pooled, *TIMM_LATER, *TORCHVISION_RESNET)


def _timm_v2(spec: ModelSpec) -> Rules | None:
    if spec.stem_norm or spec.attention != "none" or spec.stem_pool == "conv":
        return None
    number = "1" if len(spec.stem_widths) > 1 else ""
    block = "stages.#-1.blocks.#"
    return (
        ("stem.conv.*", f"stem.conv{number}.*"),
        ("stem.norm.*", "stem.norm1.*"),
        ("stem.conv#.*", "stem.conv#.*"),
        ("stem.norm#.*", "stem.norm#.*"),
        ("stage#.#.conv#.*", f"{block}.conv#.*"),
        ("stage#.#.norm#.*", f"{block}.norm#.*"),
        ("stage#.#.shortcut.conv.*", f"{block}.downsample.conv.*"),
        ("norm.*", "norm.*"),
        ("head.*", "head.fc.*"),
    )


# timm has convolutions, norms and relus of a deep stem in one `nn.Sequential`.
TIMM_DEEP_STEM: Rules = (
    ("stem.conv.*", "conv1.0.*"),
    ("stem.norm.*", "conv1.1.*"),
    ("stem.conv2.*", "conv1.3.*"),
    ("stem.norm2.*", "conv1.4.*"),
    ("stem.conv3.*", "conv1.6.*"),
    ("stem.norm3.*", "bn1.*"),
)
TIMM_POOLED: Rules = (
    ("stage#.#.shortcut.conv.*", "layer#.#.downsample.1.*"),
    ("stage#.#.shortcut.norm.*", "layer#.#.downsample.2.*"),
)
TIMM_LATER: Rules = (
    ("stem.pool.conv.*", "maxpool.0.*"),
    ("stem.pool.norm.*", "maxpool.1.*"),
    ("stage#.#.attention.fc#.*", "layer#.#.se.fc#.*"),
    ("stage#.#.attention.conv.*", "layer#.#.se.conv.*"),
)


def _timm_decode(tensors: Tensors) -> Tensors:
    """Flatten kernels: timm's VGG and resnetv2 have linear layers as convolutions."""
    for name in ("pre_logits.fc1.weight", "pre_logits.fc2.weight", "head.fc.weight"):
        if name in tensors and tensors[name].dim() == 4:
            tensors[name] = tensors[name].flatten(1)
    return tensors


def _cifar(spec: ModelSpec) -> Rules | None:
    """CIFAR-10 models as most repositories name them; shortcuts of option A have no tensors."""
    if not spec.is_resnet:
        return None
    shortcut = (
        ("stage#.#.shortcut.conv.*", "layer#.#.shortcut.0.*"),
        ("stage#.#.shortcut.norm.*", "layer#.#.shortcut.1.*"),
    )
    return (*TORCHVISION_RESNET[:4], *shortcut, ("head.*", "linear.*"))


def _cifar_preprocess(spec: ModelSpec) -> Preprocess | None:
    """Return ImageNet's constants at 32 px, as in the repository of the usual option A models.

    Source: akamaster/pytorch_resnet_cifar10, trainer.py. Other repositories use other constants.
    """
    return Preprocess(size=32, resize=32) if spec.shortcut == "A" else None


def _detectron2(spec: ModelSpec) -> Rules | None:
    """detectron2.modeling.backbone.resnet; a backbone has no head."""
    if not spec.is_resnet:
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
    """Rename the head, which detectron2's converter from torchvision stores under the stem."""
    return {name.replace("stem.fc.", "linear."): tensor for name, tensor in tensors.items()}


def _transformers(spec: ModelSpec, prefix: str) -> Rules | None:
    """transformers' ResNetForImageClassification; `prefix` is empty in a ResNetModel."""
    if not spec.is_resnet:
        return None
    stem, block = f"{prefix}embedder.embedder", f"{prefix}encoder.stages.#-1.layers.#"
    return (
        ("stem.conv.*", f"{stem}.convolution.*"),
        ("stem.norm.*", f"{stem}.normalization.*"),
        ("stage#.#.conv#.*", f"{block}.layer.#-1.convolution.*"),
        ("stage#.#.norm#.*", f"{block}.layer.#-1.normalization.*"),
        ("stage#.#.shortcut.conv.*", f"{block}.shortcut.convolution.*"),
        ("stage#.#.shortcut.norm.*", f"{block}.shortcut.normalization.*"),
        ("head.*", "classifier.1.*"),
    )


def _mmpretrain(spec: ModelSpec) -> Rules | None:
    """mmpretrain's ImageClassifier with a ResNet and a LinearClsHead."""
    if not spec.is_resnet:
        return None
    body = ((ours, f"backbone.{theirs}") for ours, theirs in TORCHVISION_RESNET[:-1])
    return (*body, ("head.*", "head.fc.*"))


def _sequential(spec: ModelSpec) -> Rules | None:
    """nn.Sequential(*model.children()) of torchvision's model: names are numbers."""
    if not spec.is_resnet:
        return None
    numbers = {"conv1": 0, "bn1": 1, "fc": 5 + len(spec.depths)}
    rules = []
    for ours, theirs in TORCHVISION_RESNET:
        assert theirs is not None
        first, _, rest = theirs.partition(".")
        if first in numbers:
            rules.append((ours, f"{numbers[first]}.{rest}"))
        else:
            rules += [
                (ours.replace("#", str(stage), 1), f"{stage + 3}.{rest}")
                for stage in range(1, 1 + len(spec.depths))
            ]
    return rules


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format("torchvision", _torchvision),
        Format("timm", _timm, _timm_decode),
        Format("cifar", _cifar, preprocess=_cifar_preprocess),
        Format(
            "detectron2",
            _detectron2,
            decode=_detectron2_decode,
            is_decoded=lambda name: name.startswith("stem.fc."),
        ),
        Format("transformers", lambda spec: _transformers(spec, "resnet.")),
        Format("transformers-backbone", lambda spec: _transformers(spec, "")),
        Format("mmpretrain", _mmpretrain),
        Format("sequential", _sequential),
        DETECTRON,
        CAFFE,
        KERAS,
        BIT_NPZ,
        BIT_PYTORCH,
        BIT_TRANSFORMERS,
    )
}
