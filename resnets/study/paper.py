"""The errors reported in the paper, in percent, by model and data set.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from resnets.config import ModelSpec
from resnets.models import catalog

Dataset = Literal["cifar10", "imagenet"]


@dataclass(frozen=True)
class PaperError:
    """Reported errors of one model in percent; `spread` is the standard deviation over `runs`.

    `top1` is None where the paper has a curve and no number; `remark` then describes it.
    """

    source: str
    top1: float | None = None
    top5: float | None = None
    best: float | None = None
    spread: float | None = None
    runs: int = 1
    remark: str = ""

    @property
    def text(self) -> str:
        """The top-1 error as in the tables: "8.75", "6.43 (6.61 ± 0.16)" or "above 60"."""
        if self.top1 is None:
            return self.remark
        if self.best is None or self.spread is None:
            return f"{self.top1:.2f}"
        return f"{self.best:.2f} ({self.top1:.2f} ± {self.spread:.2f})"


# Section 4.2. The plain networks are curves in Fig. 6 left; of plain-110 the text gives the bound.
CIFAR10 = {
    "cifar-resnet20": PaperError("Table 6", 8.75),
    "cifar-resnet32": PaperError("Table 6", 7.51),
    "cifar-resnet44": PaperError("Table 6", 7.17),
    "cifar-resnet56": PaperError("Table 6", 6.97),
    "cifar-resnet110": PaperError("Table 6", 6.61, best=6.43, spread=0.16, runs=5),
    "cifar-resnet1202": PaperError("Table 6", 7.93),
    "cifar-plain20": PaperError("Fig. 6", remark="curve only"),
    "cifar-plain32": PaperError("Fig. 6", remark="curve only"),
    "cifar-plain44": PaperError("Fig. 6", remark="curve only"),
    "cifar-plain56": PaperError("Fig. 6", remark="curve only"),
    "cifar-plain110": PaperError("section 4.2", remark="above 60"),
}

# Tables 2 and 3: 10-crop on the validation set. The paper's bottleneck networks are the v1 ones.
IMAGENET = {
    "vgg16": PaperError("Table 3", 28.07, 9.33),
    "plain18": PaperError("Table 2", 27.94),
    "plain34": PaperError("Table 2", 28.54, 10.02),
    "resnet18-a": PaperError("Table 2", 27.88),
    "resnet34-a": PaperError("Table 2", 25.03, 7.76),
    "resnet34": PaperError("Table 3", 24.52, 7.46),
    "resnet34-c": PaperError("Table 3", 24.19, 7.40),
    "resnet50-v1": PaperError("Table 3", 22.85, 6.71),
    "resnet101-v1": PaperError("Table 3", 21.75, 6.05),
    "resnet152-v1": PaperError("Table 3", 21.43, 5.71),
}

# Fields by which two models are the same; classes and input size follow the data.
ARCHITECTURE = (
    "block",
    "depths",
    "widths",
    "shortcut",
    "stride_in",
    "stem",
    "stem_width",
    "norm",
    "groups",
)

ERRORS: dict[Dataset, dict[str, PaperError]] = {"cifar10": CIFAR10, "imagenet": IMAGENET}

PROTOCOL: dict[Dataset, str] = {
    "cifar10": "test error of a single view after 64,000 iterations at batch 128",
    "imagenet": "10-crop top-1 error on the validation set after up to 600,000 iterations at "
    "batch 256",
}


def dataset(source: str) -> Dataset | None:
    """The paper's data set that `DataSpec.source` names; None for any other data."""
    name = re.sub(r"[-_ ]", "", PurePath(source).name.lower()).split(".")[0]
    if name in ("cifar10", "cifar10batchespy", "cifar10batchesbin"):
        return "cifar10"
    return "imagenet" if name in ("imagenet", "imagenet1k", "ilsvrc2012") else None


def reported(spec: ModelSpec, source: str) -> PaperError | None:
    """The paper's errors of the model `spec` on `source`; None if it reports none.

    A model is recognized by its architecture, not by its name.
    """
    data = dataset(source)
    for name, error in ERRORS[data].items() if data else ():
        if all(getattr(spec, part) == getattr(catalog.spec(name), part) for part in ARCHITECTURE):
            return error
    return None
