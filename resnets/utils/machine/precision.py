"""Choose the precision in which a model computes on a device."""

from __future__ import annotations

import platform

import torch

from resnets.utils.errors import ConfigError
from resnets.utils.machine.environment import cpu_flags

# Types of the operands of convolutions and matrix products.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TF32_CAPABILITY = (8, 0)  # Ampere
TENSOR_CORE_CAPABILITY = (7, 0)  # Volta: float16 is several times as fast as float32 from here on
BF16_MACOS = 14  # the first macOS whose Metal has bfloat16


def pick_precision(requested: str, device: torch.device, *, keep_bits: bool = False) -> str:
    """Resolve "auto" on `device`, and apply the precision of float32 arithmetic on CUDA.

    "auto" is "bfloat16" where the device computes it natively, "float16" on other CUDA devices with
    tensor cores (V100, T4), else "float32". With `keep_bits` it is "float32": images then have more
    than 8 bits (data.keep_bits), of which bfloat16 keeps 8. On CUDA devices, "tf32" rounds the
    operands of float32 convolutions and matrix products to TF32's 10 bits (Ampere and later), and
    all others do not: torch itself would in cuDNN. That is a setting of the whole process.
    Raises ConfigError if the device does not compute in `requested`.
    """
    automatic = "float32" if keep_bits else _choose_precision(device)
    chosen = automatic if requested == "auto" else requested
    if chosen not in DTYPES:
        names = ", ".join(DTYPES)
        raise ConfigError(f"precision {chosen!r}: must be one of auto, {names}")
    if not supports_precision(chosen, device):
        raise ConfigError(
            f"precision {chosen!r}: {_describe_requirement(chosen)}; use auto on {device}"
        )
    if device.type == "cuda":
        # These two keep torch's old and new settings consistent; setting the new ones alone makes
        # torch.compile fail where it reads the old ones (pytorch issue 166387).
        torch.set_float32_matmul_precision("high" if chosen == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = chosen == "tf32"
    return chosen


def supports_precision(precision: str, device: torch.device) -> bool:
    """Whether `device` can compute in `precision`, natively or emulated."""
    if precision == "tf32":
        return device.type == "cuda" and _capability(device) >= TF32_CAPABILITY
    if precision == "bfloat16" and device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(BF16_MACOS, 0)
    return True


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of `precision`, which does nothing for float32 and tf32.

    `precision`: as resolved by `pick_precision`.
    """
    enabled = DTYPES[precision] != torch.float32
    return torch.autocast(device.type, DTYPES[precision] if enabled else None, enabled=enabled)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the CUDA `device`, which must be the current one, computes in bfloat16 natively."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _choose_precision(device: torch.device) -> str:
    if device.type == "cuda":
        if has_native_bfloat16(device):
            return "bfloat16"
        return "float16" if _capability(device) >= TENSOR_CORE_CAPABILITY else "float32"
    return "bfloat16" if device.type == "cpu" and _cpu_has_bf16() else "float32"


def _describe_requirement(precision: str) -> str:
    if precision == "tf32":
        return "needs an NVIDIA GPU of compute capability 8.0 or later (Ampere)"
    return f"needs a GPU with bfloat16, or macOS {BF16_MACOS} (here: {platform.platform()})"


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _cpu_has_bf16() -> bool:
    """Whether the CPU supports bfloat16 natively; torch before 2.12 has no function for it."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags().split())
