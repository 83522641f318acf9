"""What "auto" means on a device, and what is refused."""

import pytest
import torch

import resnets.utils.machine.precision as precision_module
from resnets.config import ConfigError
from resnets.utils.machine.precision import autocast, pick_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "mps:0"))


@pytest.fixture
def gpu(monkeypatch):
    """Makes CUDA a device of some compute capability; restores torch's settings."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def of(capability):
        native = capability >= (8, 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: (
                native or (including_emulation and capability > (6, 9))
            ),
        )

    yield of
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_precision_is_resolved_and_can_be_forced():
    assert pick_precision("float32", CPU) == "float32"
    assert pick_precision("bfloat16", CPU) == "bfloat16"
    assert pick_precision("float16", CPU) == "float16"
    assert pick_precision("auto", CPU) in ("float32", "bfloat16")


def test_images_of_more_bits_are_computed_in_float32(monkeypatch):
    monkeypatch.setattr(precision_module, "_cpu_has_bf16", lambda: True)
    assert pick_precision("auto", CPU) == "bfloat16"
    assert pick_precision("auto", CPU, keep_bits=True) == "float32"
    assert pick_precision("bfloat16", CPU, keep_bits=True) == "bfloat16"


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((9, 0), "bfloat16")],
)
def test_auto_goes_by_the_gpu(capability, precision, gpu):
    gpu(capability)
    assert pick_precision("auto", CUDA) == precision
    assert autocast(CPU, precision)._enabled == (precision != "float32")


def test_only_tf32_rounds_float32_on_cuda(gpu):
    gpu((8, 6))
    for precision, rounded in (("float32", False), ("tf32", True), ("bfloat16", False)):
        assert pick_precision(precision, CUDA) == precision
        assert torch.backends.cudnn.allow_tf32 is rounded
        assert torch.backends.cuda.matmul.allow_tf32 is rounded
        assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if rounded else "none")
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")


def test_what_a_device_does_not_compute_is_refused(gpu, monkeypatch):
    gpu((7, 5))
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major < 14)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    for precision, device in (
        ("tf32", CPU),
        ("tf32", MPS),
        ("tf32", CUDA),
        ("bfloat16", CUDA),
        ("bfloat16", MPS),
        ("int8", CPU),
    ):
        with pytest.raises(ConfigError, match=f"precision '{precision}'"):
            pick_precision(precision, device)
    assert pick_precision("float16", MPS) == "float16"
    assert pick_precision("auto", MPS) == "float32"
