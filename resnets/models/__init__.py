"""The networks of the paper and of later ones, ResNet and VGG, built from a `ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnets.config import ConfigError, ModelSpec

if TYPE_CHECKING:
    from resnets.models.block_config import MakeBlock
    from resnets.models.classifier import ImageClassifier
    from resnets.models.norm import MakeNorm

__all__ = ["ImageClassifier", "build"]


def __getattr__(name: str) -> Any:
    """Import `ImageClassifier` on first use (PEP 562): the catalog does not need torch."""
    if name == "ImageClassifier":
        from resnets.models.classifier import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module 'resnets.models' has no attribute {name!r}")


def build(
    spec: ModelSpec, *, block: MakeBlock | None = None, norm: MakeNorm | None = None
) -> ImageClassifier:
    """Build the model that `spec` describes, initialized with torch's global random generator.

    Args:
        spec: Architecture of the model.
        block: Replaces the block of the spec, see `block_config.BlockConfig`.
        norm: Replaces the norm of the spec, see `ResNet`.

    Raises ConfigError if fields of `spec` contradict each other, or if `block` returns feature maps
    of a wrong shape.
    """
    from resnets.models.resnet import ResNet
    from resnets.models.vgg import VGG

    if not spec.is_vgg:
        return ResNet(spec, block=block, norm=norm)
    if block is not None:
        raise ConfigError(f"{spec.name}: VGG has no blocks to replace; use a resnet or plain model")
    return VGG(spec, norm=norm)
