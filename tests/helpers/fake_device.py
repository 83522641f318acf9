"""A simulated accelerator: tensors that report `cuda:0` or `mps:0` and compute on the CPU.

It fails where a real device would: operands on different devices, NumPy views of device memory,
and on MPS any float64 and any asynchronous copy, which may read memory that is freed. It counts
what makes the host wait for the device (`waits`): copies that block, values that are read, indexing
by CPU tensors, and operators whose output shape depends on values. `install` patches torch for the
rest of the process, so call it in a process of its own:

    install("cuda")
    with FakeDevice():
        resnets.train.run.run_training(recipe, out, device="cuda")

Computation is the CPU's own, so results equal those of a CPU run to the bit.

Not simulated: functorch transforms (`torch.func.jvp` and the like, as in `study effective`), whose
wrappers hide the subclass.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # before anything is patched
import torch.cuda.amp.common
import torch.optim.swa_utils as averaging
from fake_streams import Event, Stream, current_stream, set_device, thread_state, use_stream
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_device = torch.device("cuda", 0)
waits: Counter[tuple[str, str]] = Counter()  # (kind of wait, module:line of the package)

PACKAGE = os.path.join(*find_spec("resnets").submodule_search_locations, "")
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# Accept operands on several devices: copies, and what only asks.
MIXED = INDEXING | {"copy_", "_to_copy", "set_", "_pin_memory", "is_pinned"}
# Their output's shape, or their answer, depends on values that the host has to wait for.
READING = {
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "equal",
    "is_nonzero",
    "masked_select",
    "nms",
    "nonzero",
    "unique_dim",
}


class DeviceTensor(torch.Tensor):
    """A tensor on the simulated device; its values lie in `value`, a CPU tensor."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> DeviceTensor:
        _check_dtype(value.dtype)
        with _disable_current_modes():
            shape = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="meta"
            )
            if value.storage_offset():
                shape = shape.as_strided(value.shape, value.stride())
            made = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=_device)
        made.value = value
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: _device)
    is_cuda = property(lambda self: _device.type == "cuda")
    is_mps = property(lambda self: _device.type == "mps")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"DeviceTensor({self.value})"

    def to(self, *args: Any, **options: Any) -> torch.Tensor:
        options.pop("copy", None)
        if args and isinstance(args[0], torch.Tensor):
            device, dtype, layout = args[0].device, args[0].dtype, None
            asynchronous = options.get("non_blocking", False)
        else:
            device, dtype, asynchronous, layout = torch._C._nn._parse_to(*args, **options)
        if device is not None and device.type == "cpu":
            _check_asynchronous(asynchronous)
            _wait("copy to the host", unless=asynchronous)
            value = self.value.detach()
            return value.to(dtype=dtype or value.dtype, copy=True)
        _check_dtype(dtype)
        form = {} if layout is None else {"memory_format": layout}
        return _tensor_to(self, dtype or self.dtype, **form)

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {_device} device type tensor to numpy")

    __array__ = numpy

    def data_ptr(self) -> int:
        raise AssertionError(f"{_place()}: CPU code takes the address of a tensor on {_device}")

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            value = torch.tensor(value, dtype=self.dtype)
        torch.Tensor.__setitem__(self, index, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        copy = DeviceTensor(self.value.detach().clone())
        copy.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        memo[id(self)] = copy
        return copy


_tensor_to = torch.Tensor.to


class FakeDevice(TorchDispatchMode):
    """Context in which factories and copies to the device make `DeviceTensor`s."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _on_device(item: Any) -> bool:
    return isinstance(item, DeviceTensor)


def _is_device(target: Any) -> bool:
    return torch.device(target).type == _device.type


def _check_dtype(dtype: torch.dtype | None) -> None:
    if _device.type == "mps" and dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a MPS Tensor to float64: MPS does not support float64")


def _place() -> str:
    """The innermost line of the package that led here."""
    for frame in reversed(traceback.extract_stack(limit=60)):
        if frame.filename.startswith(PACKAGE):
            return f"{frame.filename.removeprefix(PACKAGE)}:{frame.lineno}"
    return "outside the package"


def _wait(kind: str, *, unless: bool = False) -> None:
    if not unless:
        waits[kind, _place()] += 1


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on the CPU by the rules of the device."""
    if func is torch.ops.prim.device.default:
        return _device if _on_device(args[0]) else func(*args, **kwargs)
    name = func._schema.name.split("::")[-1]
    if name == "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams" and _on_device(args[0]):
        with _disable_current_modes():  # torch makes this one on the device of the stand-in
            enabled = torch.ones(1, dtype=torch.int64)
        args = (*args[:3], DeviceTensor(enabled), *args[4:])
    tensors: list[torch.Tensor] = []
    _map(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else None, (args, kwargs))
    used = any(map(_on_device, tensors))
    target = kwargs.get("device")
    in_backward = torch._C._current_graph_task_id() != -1
    if (used or in_backward) and target is not None and torch.device(target).type == "meta":
        target = _device  # the shape that stands for a tensor here is one; autograd asks for it
    to_device = target is not None and _is_device(target)
    pinned = kwargs.get("pin_memory", False)
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if not used and not to_device:
        made = func(*args, **kwargs)
        if pinned:
            made._is_pinned = True
        return made
    _check_dtype(kwargs.get("dtype"))
    _check_devices(func, name, tensors, used)
    _count_waits(name, args, kwargs, target, to_device)
    if name == "copy_":
        target, source, *rest = args
        if _on_device(target):
            _check_dtype(target.dtype)
        elif any(rest) or kwargs.get("non_blocking"):
            current_stream(_device).copy_later(target, source.value)
            return target
    result = _compute(func, args, kwargs, on_device=to_device if target is not None else used)
    return args[0] if name == "copy_" else result


def _check_devices(func: Any, name: str, tensors: list[torch.Tensor], used: bool) -> None:
    others = [each for each in tensors if not _on_device(each) and each.ndim]
    if used and others and name not in MIXED:
        shapes = [tuple(each.shape) for each in others]
        raise RuntimeError(f"{_place()}: {func} on {_device} and CPU tensors of shapes {shapes}")


def _count_waits(name: str, args: Any, kwargs: Any, target: Any, to_device: bool) -> None:
    if name in READING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        _wait("value read")
    elif name.startswith("fake_quantize_per_channel") and not args[2].is_floating_point():
        _wait("value read")  # the range of integer zero points
    elif name in INDEXING:
        for index in args[1] or ():
            if isinstance(index, torch.Tensor):
                if not _on_device(index) and index.ndim:
                    _wait("index from the host")
                elif _on_device(index) and index.dtype in (torch.bool, torch.uint8):
                    _wait("boolean index")
    elif name == "_to_copy":
        asynchronous = kwargs.get("non_blocking", False)
        if target is not None and _on_device(args[0]) != to_device:
            _check_asynchronous(asynchronous)
        if not _on_device(args[0]):
            asynchronous = asynchronous and _pinned(args[0])
            _wait("copy to the device", unless=asynchronous or not to_device)
        elif target is not None and not to_device:
            _wait("copy to the host", unless=asynchronous)
    elif name == "copy_":
        asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if _on_device(args[0]) != _on_device(args[1]):
            _check_asynchronous(asynchronous)
            way, host = ("device", args[1]) if _on_device(args[0]) else ("host", args[0])
            _wait(f"copy to the {way}", unless=asynchronous and _pinned(host))


def _pinned(host: torch.Tensor) -> bool:
    """Whether a copy is asynchronous: never from or to pageable memory."""
    return getattr(host, "_is_pinned", False)


def _check_asynchronous(asynchronous: bool) -> None:
    """MPS reads or writes the host's memory later, even if it was freed."""
    if asynchronous and _device.type == "mps":
        raise AssertionError(f"{_place()}: a non_blocking copy between the host and MPS")


def _compute(func: Any, args: Any, kwargs: Any, *, on_device: bool) -> Any:
    inputs: dict[int, torch.Tensor] = {}

    def unwrap(item: Any) -> Any:
        if _on_device(item):
            inputs[id(item.value)] = item
            return item.value
        return torch.device("cpu") if isinstance(item, torch.device) else item

    def wrap(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or _on_device(item):
            return item
        return inputs.get(id(item)) if id(item) in inputs else DeviceTensor(item)

    plain_args, plain_kwargs = _map(unwrap, args), _map(unwrap, kwargs)
    if plain_kwargs.get("device") is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    return _map(wrap, result) if on_device else result


def _map(function: Callable[[Any], Any], item: Any) -> Any:
    """`torch.utils._pytree.tree_map` for what operators take and return, in a fifth of the time."""
    if type(item) in (list, tuple):
        return type(item)([_map(function, each) for each in item])
    if type(item) is dict:
        return {key: _map(function, each) for key, each in item.items()}
    return function(item)


def _pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    pinned = tensor.clone()
    pinned._is_pinned = True
    return pinned


def install(kind: str, index: int = 0) -> None:
    """Patch torch so that "cuda" or "mps" is there; for the rest of the process.

    index: of two CUDA devices the one that tensors lie on; the current one is 0.
    """
    global _device
    _device = torch.device(kind, index)
    os.environ["RESNETS_NATIVE"] = "0"  # a device has no use for the CPU's kernels
    _patch_operators()
    if kind == "mps":
        torch.backends.mps.is_available = lambda: True
        torch.mps.empty_cache = lambda: None
        return
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    for name, value in {
        "_lazy_init": None,
        "device_count": 2,
        "empty_cache": None,
        "get_device_capability": (9, 0),
        "get_device_name": "simulated",
        "get_device_properties": SimpleNamespace(total_memory=80 << 30, major=9, minor=0),
        "is_available": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "manual_seed_all": None,
    }.items():
        setattr(torch.cuda, name, lambda *_, _value=value, **__: _value)
    torch.cuda.current_device = lambda: thread_state.device
    torch.cuda.current_stream = current_stream
    torch.cuda.set_device = set_device
    torch.cuda.synchronize = lambda device=None: current_stream(device).synchronize()
    torch.cuda.Event, torch.cuda.Stream = Event, Stream
    torch.cuda.stream = use_stream
    torch.Tensor.pin_memory = _pin


def _patch_operators() -> None:
    """Where torch's C++ looks at a tensor's real device before it dispatches."""
    where, type_as = torch.where, torch.Tensor.type_as
    attention = torch.nn.functional.scaled_dot_product_attention

    def tensor_to(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if args and _on_device(args[0]) and not _on_device(self):
            return _tensor_to(self, _device, args[0].dtype)
        if args and isinstance(args[0], str | torch.device):
            # torch would look for the current device of a kind that it was not built for
            target = torch.device(args[0])
            args = (_device if target == torch.device(_device.type) else target, *args[1:])
        return _tensor_to(self, *args, **options)

    def where_scalars(condition: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if args and _on_device(condition):
            dtype = next((each.dtype for each in args if isinstance(each, torch.Tensor)), None)
            args = tuple(
                each if isinstance(each, torch.Tensor) else torch.tensor(each, dtype=dtype)
                for each in args
            )
        return where(condition, *args, **options)

    def attention_with_mask(query: Any, key: Any, value: Any, **options: Any) -> torch.Tensor:
        if _on_device(query) and options.pop("is_causal", False):
            allowed = torch.ones(query.shape[-2], key.shape[-2]).tril().bool()
            mask = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
            options["attn_mask"] = DeviceTensor(mask)  # not a wait: kernels make it themselves
        return attention(query, key, value, **options)

    torch.nn.functional.scaled_dot_product_attention = attention_with_mask
    torch.Tensor.to = tensor_to
    torch.Tensor.type_as = lambda self, other: (
        tensor_to(self, other) if _on_device(other) else type_as(self, other)
    )
    torch.where = where_scalars
    # Tensors of inference mode have no version counter, which subclasses need.
    torch.inference_mode.__enter__ = torch.no_grad.__enter__
    torch.inference_mode.__exit__ = torch.no_grad.__exit__
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    group = averaging._group_tensors_by_device_and_dtype
    averaging._group_tensors_by_device_and_dtype = lambda lists: {
        ((_device if device is not None and device.type == "meta" else device), dtype): values
        for (device, dtype), values in group(lists).items()
    }
