"""Entry points of torch.hub: `torch.hub.load(REPOSITORY, "load", "runs/a-1", source="local")`."""

from resnets import create_model, load

dependencies = ["torch", "torchvision", "safetensors"]

__all__ = ["create_model", "load"]
