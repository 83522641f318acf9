"""Norm, addition and relu in one kernel: equal to torch's in every direction."""

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnets import create_model
from resnets.models.norm import BatchNormAct2d, use_cpu_kernels
from resnets.ops import compiler, norm_act

pytestmark = pytest.mark.skipif(compiler.load_library("norm") is None, reason="no C compiler here")
SHAPES = ((4, 16, 8, 8), (4, 32, 5, 7), (2, 64, 9, 9), (5, 128, 3, 3), (2, 192, 4, 4))


def maps(shape, count, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        values = torch.randn(shape, generator=generator) * 2 + 3
        yield values.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def trained(norm, x, shortcut, pull):
    """Output, gradients and statistics of one step through relu(norm(x) + shortcut).

    pull: of the output's gradient, or two of them, of an output that is used twice.
    """
    leaves = [leaf for leaf in (x, shortcut, norm.weight, norm.bias) if leaf is not None]
    y = norm(x, shortcut)
    uses, pulls = (y, pull) if isinstance(pull, Tensor) else ((y, norm_act.second_use(y)), pull)
    return [y, *torch.autograd.grad(uses, leaves, pulls), norm.running_mean, norm.running_var]


def lively_norm(channels, relu=True):
    norm = BatchNormAct2d(channels, relu=relu).train()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_float32_equals_float64_of_torch(shape, adds, twice):
    # A sum that rounds across zero lets one gradient more or less through the relu.
    torch.manual_seed(0)
    x, shortcut, *pulls = maps(shape, 4)
    norm = lively_norm(shape[1])
    exact = copy.deepcopy(norm).double()
    wide = [each.detach().double().requires_grad_() for each in (x, shortcut, *pulls)]
    expected = trained(exact, wide[0], wide[1] if adds else None, wide[2:] if twice else wide[2])
    assert use_cpu_kernels(norm)
    found = trained(norm, x, shortcut if adds else None, pulls if twice else pulls[0])
    assert type(found[0].grad_fn).__name__ == "_BatchNormActBackward"
    assert norm.num_batches_tracked == exact.num_batches_tracked == 1
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_norm_without_relu(shape):
    torch.manual_seed(0)
    x, pull = maps(shape, 2)
    norm = lively_norm(shape[1], relu=False)
    exact, wide = copy.deepcopy(norm).double(), x.detach().double().requires_grad_()
    use_cpu_kernels(norm)
    ours, theirs = norm(x), exact(wide)
    assert type(ours.grad_fn).__name__ == "_BatchNormActBackward"
    assert ours.min() < 0
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(ours, (x, norm.weight, norm.bias), pull)
    expected = torch.autograd.grad(theirs, (wide, exact.weight, exact.bias), pull.double())
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each.double(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_bfloat16_is_as_close_to_the_truth_as_torch(adds, twice):
    torch.manual_seed(0)
    x, shortcut, *pulls = maps((32, 16, 16, 16), 4, torch.bfloat16)
    shortcut = shortcut if adds else None
    norm = lively_norm(16)
    wide = [
        None if each is None else each.detach().float().requires_grad_()
        for each in (x, shortcut, *pulls)
    ]
    exact = trained(copy.deepcopy(norm), *wide[:2], wide[2:] if twice else wide[2])
    pull = pulls if twice else pulls[0]
    torch_like = trained(copy.deepcopy(norm), x, shortcut, pull)
    use_cpu_kernels(norm)
    for ours, theirs, truth in zip(
        trained(norm, x, shortcut, pull), torch_like, exact, strict=True
    ):
        ours_off, theirs_off = ((each.float() - truth).norm() for each in (ours, theirs))
        assert ours_off <= 1.1 * theirs_off + 1e-4 * truth.norm()


def test_same_result_with_any_number_of_threads():
    x, shortcut, pull = maps((16, 32, 16, 16), 3, torch.bfloat16)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            norm = lively_norm(32)
            use_cpu_kernels(norm)
            found.append(trained(norm, x, shortcut, pull))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_one_use_alone_and_none_at_all():
    x, _, pull = maps((4, 16, 8, 8), 3)
    norm = lively_norm(16)
    use_cpu_kernels(norm)
    y = norm(x)
    expected, found = (
        torch.autograd.grad(use, [x, norm.weight], pull, retain_graph=True)
        for use in (y, norm_act.second_use(y))
    )
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert torch.equal(norm_act.second_use(y), y)
    held = weakref.ref(y)
    del y
    assert held() is None  # without a collector: no cycle holds the map


def test_offset_far_above_the_deviation_keeps_its_variance():
    x = torch.randn(64, 16, 8, 8) * 0.01 + 100
    x = x.contiguous(memory_format=torch.channels_last)
    norm = BatchNormAct2d(16, momentum=1.0).train()
    use_cpu_kernels(norm)
    norm(x)
    exact = x.double().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(norm.running_var.double(), exact, rtol=1e-4, atol=0)


def test_not_a_number_passes_on():
    x = torch.randn(4, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 3] = float("nan")
    norm = BatchNormAct2d(16).train()
    use_cpu_kernels(norm)
    y = norm(x)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


@pytest.mark.parametrize(
    "name",
    [
        "cifar-resnet20",
        "cifar-plain20",
        "preact-resnet50",
        pytest.param("vgg16-bn", marks=pytest.mark.ci),
    ],
)
def test_a_step_of_a_model_equals_torchs(name):
    torch.manual_seed(0)
    size = 64 if name == "preact-resnet50" else 32
    model = create_model(name, num_classes=10).to(memory_format=torch.channels_last).train()
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    twin = copy.deepcopy(model)
    assert use_cpu_kernels(twin)
    images = torch.randn(8, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(8)
    for each in (model, twin):
        F.cross_entropy(each(images), targets).backward()
    for (path, ours), theirs in zip(twin.named_parameters(), model.parameters(), strict=True):
        off = (ours.grad - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-3)
        assert off < 5e-2, (path, off)
    for (path, ours), theirs in zip(twin.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=path)


def test_what_does_not_fit_is_left_to_torch():
    norm = BatchNormAct2d(24).train()
    use_cpu_kernels(norm)
    x = torch.randn(2, 24, 4, 4, requires_grad=True)
    assert type(norm(x).grad_fn).__name__ == "ReluBackward0"
    wide = BatchNormAct2d(64).eval()
    use_cpu_kernels(wide)
    x = torch.randn(2, 64, 4, 4).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(wide(x), F.relu(wide.normalize(x)))


def test_without_a_compiler_nothing_is_lost(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    compiler.load_kernel.cache_clear()
    norm_act._kernel.cache_clear()
    try:
        assert compiler.load_library("norm") is None
        assert not use_cpu_kernels(BatchNormAct2d(16))
    finally:
        monkeypatch.undo()
        compiler.load_kernel.cache_clear()
        norm_act._kernel.cache_clear()
