"""What the paper says of its nets (He et al., CVPR 2016), to stand beside what is counted here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The paper's figures of one net, in its own rounding; None where it gives none.

    `error` is in percent. For ImageNet it is top-1 and, where given, top-5 on validation with ten
    crops (Tables 2 and 3); for CIFAR-10 it is the test error (Table 6).
    """

    parameters: str | None = None
    multiply_adds: str | None = None
    error: str | None = None


# ImageNet multiply-adds: Table 1, which has neither plain nets nor shortcut options apart, and
# Fig. 3. The paper's bottlenecks have their stride in the first 1x1 ("-v1").
PUBLISHED = {
    "resnet18": Published(multiply_adds="1.8G"),
    "resnet18-a": Published(multiply_adds="1.8G", error="27.88"),
    "plain18": Published(multiply_adds="1.8G", error="27.94"),
    "resnet34": Published(multiply_adds="3.6G", error="24.52 / 7.46"),
    "resnet34-a": Published(multiply_adds="3.6G", error="25.03 / 7.76"),
    "resnet34-c": Published(error="24.19 / 7.40"),
    "plain34": Published(multiply_adds="3.6G", error="28.54 / 10.02"),
    "resnet50-v1": Published(multiply_adds="3.8G", error="22.85 / 6.71"),
    "resnet101-v1": Published(multiply_adds="7.6G", error="21.75 / 6.05"),
    "resnet152-v1": Published(multiply_adds="11.3G", error="21.43 / 5.71"),
    "vgg16": Published(error="28.07 / 9.33"),
    "vgg19": Published(multiply_adds="19.6G"),
    "cifar-resnet20": Published(parameters="0.27M", error="8.75"),
    "cifar-resnet32": Published(parameters="0.46M", error="7.51"),
    "cifar-resnet44": Published(parameters="0.66M", error="7.17"),
    "cifar-resnet56": Published(parameters="0.85M", error="6.97"),
    "cifar-resnet110": Published(parameters="1.7M", error="6.43"),
    "cifar-resnet1202": Published(parameters="19.4M", error="7.93"),
}
