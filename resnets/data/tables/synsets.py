"""ImageNet's 1,000 classes by their WordNet ids, in the order in which all libraries have them."""

from importlib import resources

# One a line, sorted: the classes of ILSVRC 2012, as its devkit and every training folder name them.
WNIDS: tuple[str, ...] = tuple(
    resources.files("resnets.data.tables").joinpath("imagenet_wnids.txt").read_text("ascii").split()
)
