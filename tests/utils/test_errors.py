"""Running out of memory ends in one line."""

import importlib

import pytest
import torch

from resnets.cli.main import main
from resnets.utils.errors import OutOfMemory, is_out_of_memory, within_memory
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import reading_weights

MESSAGES = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "MPS backend out of memory (MPS allocated: 9.0 GB)",
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_allocators_are_out_of_memory(message):
    assert is_out_of_memory(RuntimeError(message))
    context = within_memory("the model does not fit", "use --device cpu")
    with pytest.raises(OutOfMemory, match="the model does not fit; use --device cpu"), context:
        raise RuntimeError(message)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDA error: CUDNN_STATUS_NOT_INITIALIZED",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
)
def test_what_a_full_gpu_and_other_causes_have_in_common_is_decided_by_its_memory(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, free = RuntimeError(message), {None: 1 << 20, "cuda:1": 1 << 32}
    monkeypatch.setattr(
        torch.cuda,
        "mem_get_info",
        lambda device=None: (free[None if device is None else str(device)], 1 << 36),
    )
    assert is_out_of_memory(error)
    assert not is_out_of_memory(error, "cuda:1")
    assert not is_out_of_memory(error, torch.device("cuda:1"))
    assert not is_out_of_memory(error, "cpu")
    with pytest.raises(RuntimeError), within_memory("a", "b", "cuda:1"):
        raise error
    free["cuda:1"] = 1 << 20
    with pytest.raises(OutOfMemory), within_memory("a", "b", "cuda:1"):
        raise error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(MESSAGES[0]), RuntimeError(MESSAGES[1])])
def test_a_full_device_is_not_a_fault_of_the_file_that_is_read_to_it(error):
    context = within_memory("momentum does not fit", "use a smaller model")
    with pytest.raises(OutOfMemory), context, reading_weights("last.safetensors"):
        raise error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(MESSAGES[-1])])
def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(error):
    with pytest.raises(WeightsError) as caught, reading_weights("last.safetensors"):
        raise error
    assert "memory" in str(caught.value)
    assert "cannot be read" not in str(caught.value)


def test_other_errors_pass():
    assert not is_out_of_memory(RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"))
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"), within_memory("a", "b"):
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(MESSAGES[0]), MemoryError()])
def test_a_command_prints_one_line(error, monkeypatch, capsys):
    def command(*_: str) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("resnets.cli.features"), "command", command)
    assert main(["features"]) == 1
    output = capsys.readouterr().err
    assert output.startswith("resnets features: out of memory (")
    assert output.count("\n") == 1
