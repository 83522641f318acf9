"""The numbers reported in the paper, each with its table or section; errors in percent.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016; at the end those of
the same authors' "Identity Mappings in Deep Residual Networks", ECCV 2016. All code reads them from
here; tests/study/test_paper.py compares docstrings and pages that repeat one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from resnets.config import ModelSpec
from resnets.models import catalog

Dataset = Literal["cifar10", "imagenet"]


@dataclass(frozen=True)
class PaperError:
    """Reported errors of one model in percent; `spread` is the standard deviation over `runs`.

    `top1` is None if the paper has only a curve, which `remark` then describes.
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


# Section 4.2. Plain networks are curves in Fig. 6 left; for plain-110 the text has a bound.
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
    "plain34": PaperError("Tables 2 and 3", 28.54, 10.02),
    "resnet18-a": PaperError("Table 2", 27.88),
    "resnet34-a": PaperError("Tables 2 and 3", 25.03, 7.76),
    "resnet34": PaperError("Table 3", 24.52, 7.46),
    "resnet34-c": PaperError("Table 3", 24.19, 7.40),
    "resnet50-v1": PaperError("Table 3", 22.85, 6.71),
    "resnet101-v1": PaperError("Table 3", 21.75, 6.05),
    "resnet152-v1": PaperError("Table 3", 21.43, 5.71),
}


@dataclass(frozen=True)
class PaperCost:
    """Reported parameters and multiply-adds of one model, in the paper's rounding."""

    source: str
    parameters: str | None = None
    multiply_adds: str | None = None


# Table 1 does not distinguish plain networks or shortcut options.
COSTS = {
    "resnet18": PaperCost("Table 1", multiply_adds="1.8G"),
    "resnet18-a": PaperCost("Table 1", multiply_adds="1.8G"),
    "plain18": PaperCost("Table 1", multiply_adds="1.8G"),
    "resnet34": PaperCost("Table 1", multiply_adds="3.6G"),
    "resnet34-a": PaperCost("Table 1", multiply_adds="3.6G"),
    "plain34": PaperCost("Table 1", multiply_adds="3.6G"),
    "resnet50-v1": PaperCost("Table 1", multiply_adds="3.8G"),
    "resnet101-v1": PaperCost("Table 1", multiply_adds="7.6G"),
    "resnet152-v1": PaperCost("Table 1", multiply_adds="11.3G"),
    "vgg16": PaperCost("section 4.1", multiply_adds="15.3G"),
    "vgg19": PaperCost("section 3.3", multiply_adds="19.6G"),
    "cifar-resnet20": PaperCost("Table 6", parameters="0.27M"),
    "cifar-resnet32": PaperCost("Table 6", parameters="0.46M"),
    "cifar-resnet44": PaperCost("Table 6", parameters="0.66M"),
    "cifar-resnet56": PaperCost("Table 6", parameters="0.85M"),
    "cifar-resnet110": PaperCost("Table 6", parameters="1.7M"),
    "cifar-resnet1202": PaperCost("Table 6", parameters="19.4M"),
}


# Fields that identify a model; classes and input size depend on the data.
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
    "shortcut_gate",
    "shortcut_scale",
    "shortcut_dropout",
    "branch_scale",
)

ERRORS: dict[Dataset, dict[str, PaperError]] = {"cifar10": CIFAR10, "imagenet": IMAGENET}

PROTOCOL: dict[Dataset, str] = {
    "cifar10": "test error of a single view after 64,000 iterations at batch 128",
    "imagenet": "10-crop top-1 error on the validation set after up to 600,000 iterations at "
    "batch 256",
}


def find_dataset(source: str) -> Dataset | None:
    """Return the paper's data set that `DataSpec.source` names; None for other data."""
    name = re.sub(r"[-_ ]", "", PurePath(source).name.lower()).split(".")[0]
    if name in ("cifar10", "cifar10batchespy", "cifar10batchesbin"):
        return "cifar10"
    return "imagenet" if name in ("imagenet", "imagenet1k", "ilsvrc2012") else None


def find_error(spec: ModelSpec, source: str) -> PaperError | None:
    """Return the paper's errors of the model `spec` on `source`; None if it reports none.

    A model is recognized by its architecture, not by its name.
    """
    data = find_dataset(source)
    for name, error in ERRORS[data].items() if data else ():
        if all(getattr(spec, part) == getattr(catalog.spec(name), part) for part in ARCHITECTURE):
            return error
    return None


@dataclass(frozen=True)
class PaperForm:
    """A row of Table 1 or 2 of He, Zhang, Ren, Sun, "Identity Mappings", ECCV 2016.

    form: what a model's name has after the colon, "ORDER-*" for `block` of either kind. errors:
    layers -> test error on CIFAR-10 in percent, median of five runs; None where the paper gives
    "fail", an error above 20.
    """

    case: str
    form: str
    errors: Mapping[int, float | None]


SHORTCUT_FORMS = (  # Table 1, ResNet-110. Exclusive gates fail for biases from 0 to -5.
    PaperForm("original", "", {110: 6.61}),
    PaperForm("no shortcut (plain)", "none", {110: None}),
    PaperForm("shortcut x 0.5", "shortcut_scale=0.5", {110: None}),
    PaperForm("shortcut x 0.5, F x 0.5", "shortcut_scale=0.5:branch_scale=0.5", {110: 12.35}),
    PaperForm("exclusive gate, bias 0", "shortcut_gate=exclusive:gate_bias=0", {110: None}),
    PaperForm("exclusive gate, bias -6", "shortcut_gate=exclusive:gate_bias=-6", {110: 8.70}),
    PaperForm("exclusive gate, bias -7", "shortcut_gate=exclusive:gate_bias=-7", {110: 9.81}),
    PaperForm(
        "shortcut-only gate, bias 0", "shortcut_gate=shortcut-only:gate_bias=0", {110: 12.86}
    ),
    PaperForm(
        "shortcut-only gate, bias -6", "shortcut_gate=shortcut-only:gate_bias=-6", {110: 6.91}
    ),
    PaperForm("1x1 convolution", "C", {110: 12.22}),
    PaperForm("dropout 0.5", "shortcut_dropout=0.5", {110: None}),
)
ORDER_FORMS = (  # Table 2
    PaperForm("original", "", {110: 6.61, 164: 5.93}),
    PaperForm("BN after addition", "block=norm-after-add-*", {110: 8.17, 164: 6.50}),
    PaperForm("ReLU before addition", "block=relu-before-add-*", {110: 7.84, 164: 6.14}),
    PaperForm("ReLU-only pre-activation", "block=relu-preact-*", {110: 6.71, 164: 5.91}),
    PaperForm("full pre-activation", "block=preact-*", {110: 6.37, 164: 5.46}),
)
# Table 3: (data, layers) -> errors of the original and of the pre-activation network. "110, one
# layer" skips one layer instead of two; no model here has such units.
PREACTIVATION: dict[tuple[str, str], tuple[float, float]] = {
    ("CIFAR-10", "110, one layer"): (9.90, 8.91),
    ("CIFAR-10", "110"): (6.61, 6.37),
    ("CIFAR-10", "164"): (5.93, 5.46),
    ("CIFAR-10", "1001"): (7.61, 4.92),
    ("CIFAR-100", "164"): (25.16, 24.33),
    ("CIFAR-100", "1001"): (27.82, 22.71),
}
