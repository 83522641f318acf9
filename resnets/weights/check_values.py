"""Check the specified architecture of weights, and the values of tensors.

A file may state another architecture with the same tensors, or may have been written before its
norms had seen an image. Impossible values raise an error, improbable ones give a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, replace

import torch
from torch import Tensor

from resnets.config import ConfigError, ModelSpec
from resnets.models import catalog
from resnets.utils.printable import format_count, join_names
from resnets.weights import folder
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import BATCH_COUNT
from resnets.weights.read import HIDDEN_FIELDS, Weights

log = logging.getLogger("resnets")

MEAN, VAR = "running_mean", "running_var"
# Formats whose norms are folded into a scale and a shift, read as norms of mean 0 and variance 1.
FOLDED = frozenset({"detectron", "detectron2", "caffe"})

LEARNED_SCALES = ("rezero", "skipinit", "fixup")  # values of `branch_scale` that have tensors
# Names of networks whose tensors look like those of this package but which compute otherwise.
OTHER_NETWORKS = re.compile(
    r"(legacy_)?(se|eca|sk|gc|dark|lambda_|halo|bot|cot)_?(resnet|resnext)\w*"
    r"|resnet(blur|aa|rs|v2|_?gn)\w*|resne(t|xt)\d+(c|d|s|t|ts|_gn|_clip\w*)(_\w+)?"
)


def resolve_arch(arch: str) -> str | None:
    """Return the catalog name of what a file calls `arch`, as timm or torchvision spells it."""
    name = _normalize_arch(arch)
    names = {re.sub(r"^cifar|[-_]", "", each): each for each in catalog.list_models()}
    known = names.get(re.sub(r"^(tv|gluon|cifar\d*)(?=[-_])|[-_]", "", name))
    if known is None:
        with suppress(ConfigError):  # a CIFAR model of any depth
            known = catalog.spec(name.replace("_", "-")).name
    return known


def _normalize_arch(arch: str) -> str:
    return arch.rpartition("/")[2].partition(".")[0].lower()


def check_arch(weights: Weights, spec: ModelSpec) -> None:
    """Raise ConfigError if the file specifies another architecture than `spec`.

    With FILE#PART only the tensors count. A name that cannot be compared is logged. A model of the
    same name may have other details, as of `check_same_model`.
    """
    arch, source = weights.stored_config.arch, weights.source
    if not arch:
        return
    name = _normalize_arch(arch)
    known = resolve_arch(arch)
    if known is not None:
        theirs = catalog.spec(known)
        if known == spec.name and weights.part is None:
            hidden = {*_fields_without_tensors(spec), *_fields_without_tensors(theirs)}
            hidden -= set(HIDDEN_FIELDS)  # which the model adopts; names and shapes show the rest
            shown = [each.name for each in fields(ModelSpec) if each.name not in hidden]
            check_same_model(source, theirs, spec, shown)
        if known == spec.name or folder.first_difference(theirs, spec) in (None, "stem"):
            return
    statement = (
        f"{source}: specifies the architecture {arch[:60]!r} ({weights.stored_config.arch_field})"
    )
    if weights.part is None and (known is not None or OTHER_NETWORKS.fullmatch(name)):
        part = next((each for each in ("state_dict", "model") if _has_part(weights, each)), None)
        remedy = f"use {source}#{part}" if part else "save it without that field"
        raise ConfigError(f"{statement}, not {spec.name}; if both compute the same, {remedy}")
    if re.search(r"\d", name):
        log.warning("%s, which was not compared with %s", statement, spec.name)


def check_same_model(
    source: str, theirs: ModelSpec, spec: ModelSpec, adopted: Collection[str] = ()
) -> None:
    """Raise ConfigError if `spec` computes otherwise than `theirs`, whose weights it takes.

    Allowed are a CIFAR stem, to which the kernel is adapted; dilated stages and blurred
    subsampling, which are changes for further training; and the fields `adopted` from the weights.
    """
    compared = replace(spec, dilate=theirs.dilate, blur_pool=theirs.blur_pool)
    compared = replace(compared, **{name: getattr(theirs, name) for name in adopted})
    if spec.stem == "cifar" and theirs.stem == "imagenet":
        compared = replace(compared, stem="imagenet", stem_pool="padded")
    field = folder.first_difference(theirs, compared)
    if field is not None:
        known = theirs.name in catalog.list_models() and theirs.name != spec.name
        remedy = f"; add --model {theirs.name}" if known else ""
        raise ConfigError(
            f"weights: {source} are for a network with {field} {getattr(theirs, field)!r}, but "
            f"{spec.name} has {getattr(spec, field)!r} (model.{field}){remedy}"
        )


def warn_about_unstated_network(weights: Weights, spec: ModelSpec) -> None:
    """Log what is assumed for tensors in the names of this package, unless the file specifies it.

    These fields of `spec` change its outputs, and neither names nor shapes of tensors show them.
    """
    arch = weights.stored_config.arch
    if weights.spec is not None or (arch and weights.part is None and resolve_arch(arch)):
        return
    hidden = _fields_without_tensors(spec)
    if hidden:
        log.warning(
            "%s: does not specify its network; read as %s with %s, which tensors do not show",
            weights.source, spec.name,
            ", ".join(f"{name} {getattr(spec, name)!r}" for name in hidden),
        )  # fmt: skip


def _fields_without_tensors(spec: ModelSpec) -> list[str]:
    if spec.is_vgg:
        return [] if spec.norm == "none" else ["norm_eps"]
    strided = spec.downsample != "max-pool"  # by a convolution
    projects = strided and spec.shortcut in ("B", "C")
    conditions = {
        "block": True,  # the order of layers
        "stride_in": spec.is_bottleneck and strided,
        "stem_norm": spec.is_preact and spec.norm == "none",
        "stem_pool": spec.stem not in ("cifar", "whitening") and spec.stem_pool != "conv",
        "shortcut": not projects,
        "shortcut_pool": projects,
        "shortcut_gate": spec.shortcut_gate not in ("none", "highway"),
        "shortcut_scale": spec.residual and not projects and spec.shortcut_gate == "none",
        "branch_scale": spec.residual and spec.branch_scale not in LEARNED_SCALES,
        "norm_eps": spec.norm != "none",
        "norm_groups": spec.norm == "group+ws",
        "activation": True,
        "head_pool": True,
        "logit_scale": True,
        "blur_pool": strided and spec.norm != "group+ws" and spec.branch_scale != "fixup",
        "dilate": strided,
    }
    return [name for name, is_hidden in conditions.items() if is_hidden]


def _has_part(weights: Weights, part: str) -> bool:
    return any(name.startswith(f"{part}.") for name in weights.contents)


def check_not_empty(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError for tensors without elements, as DeepSpeed writes at ZeRO stage 3."""
    empty = [name for name, tensor in tensors.items() if not tensor.numel()]
    if empty:
        raise WeightsError(
            f"{source}: {len(empty)} tensors are empty ({join_names(empty)}): one part of a model"
            " that DeepSpeed saved in shards (ZeRO stage 3)? its zero_to_fp32.py makes one file of"
            " them"
        )


def check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError for values that no trained network has."""
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        count = format_count(len(broken), "tensor")
        raise WeightsError(f"{source}: not finite in {count}: {join_names(broken)}")
    variances = {name: tensor for name, tensor in tensors.items() if name.endswith(VAR)}
    negative = [name for name, tensor in variances.items() if (tensor < 0).any()]
    if negative:
        raise WeightsError(
            f"{source}: variances below 0 in {format_count(len(negative), 'tensor')}"
            f" ({join_names(negative)}); the file is damaged, or its tensors are the difference of"
            " two networks"
        )
    if variances and not any(tensor.any() for tensor in variances.values()):
        raise WeightsError(
            f"{source}: all variances are 0 ({join_names(variances)}): the statistics of its norms "
            "were never filled; save the weights of the trained network"
        )


def warn_about_values(tensors: Mapping[str, Tensor], source: str, format: str | None) -> None:
    """Log a warning for tensors of zeros and norms without statistics."""
    zero = [name for name, tensor in tensors.items() if _is_zero(name, tensor)]
    if zero:
        log.warning(
            "%s: only zeros in %d tensors (%s): its outputs may not depend on the image; "
            "was the file written before it was filled?",
            source, len(zero), join_names(zero),
        )  # fmt: skip
    norms = [name.removesuffix(MEAN) for name in tensors if name.endswith(MEAN)]
    fresh = [norm for norm in norms if _has_initial_statistics(tensors, norm)]
    folded = format in FOLDED or _all_biased(tensors)
    if fresh and not folded:
        log.warning(
            "%s: mean 0 and variance 1 in %s of its %d norms (%s): their statistics were never "
            "collected, and outputs will be wrong; for averaged weights, call "
            "torch.optim.swa_utils.update_bn before saving",
            source, "all" if len(fresh) == len(norms) else len(fresh), len(norms),
            join_names(norm.removesuffix(".") for norm in fresh),
        )  # fmt: skip


def _is_zero(name: str, tensor: Tensor) -> bool:
    """Return whether this is a matrix, kernel or variance of zeros; scales and shifts may be 0."""
    compared = tensor.dim() > 1 or name.endswith(VAR)
    return compared and tensor.numel() > 0 and not tensor.any()


def _has_initial_statistics(tensors: Mapping[str, Tensor], norm: str) -> bool:
    mean, var = tensors[f"{norm}{MEAN}"], tensors[f"{norm}{VAR}"]
    batches = tensors.get(f"{norm}{BATCH_COUNT}", torch.tensor(0))
    return not batches.any() and not mean.any() and bool((var == 1).all())


def _all_biased(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether every convolution has a bias: norms may have been folded into them."""
    kernels = [name for name, tensor in tensors.items() if tensor.dim() == 4]
    return all(f"{name.removesuffix('weight')}bias" in tensors for name in kernels)
