"""The gradient of a convolution's weights by a kernel: torch's, with less rounding."""

import pytest
import torch
from torch import nn

from resnets import create_model
from resnets.models.norm import use_cpu_kernels
from resnets.ops import conv_weight_grad
from resnets.ops.conv_weight_grad import Conv2d, use_kernel

pytestmark = pytest.mark.skipif(
    not conv_weight_grad.has_kernel(), reason="no compiler here, or no bfloat16 instructions"
)

# images, input channels, output channels, height, width, kernel size, stride
SHAPES = [
    (8, 16, 16, 32, 32, 3, 1),
    (3, 16, 32, 32, 32, 3, 2),
    (5, 48, 16, 9, 7, 3, 1),  # odd sides, an odd number of tiles
    (1, 16, 48, 15, 13, 3, 2),
    (4, 64, 64, 8, 8, 3, 1),
    (2, 64, 128, 56, 56, 1, 1),  # x is the narrower side
    (2, 128, 48, 14, 14, 1, 1),
    (3, 32, 64, 7, 9, 1, 2),
    (2, 256, 256, 7, 7, 3, 1),  # threads share one sum
    (3, 256, 512, 9, 9, 3, 2),
    (2, 512, 1024, 14, 14, 1, 2),
    (2, 16, 16, 1, 1, 3, 1),
    (40, 32, 32, 3, 2, 3, 1),  # more images than groups
]


def case(n, ci, co, h, w, size, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(ci, co, size, stride, padding=size // 2, bias=False)
    conv.to(memory_format=torch.channels_last)
    x = torch.randn(n, ci, h, w).bfloat16().contiguous(memory_format=torch.channels_last)
    return conv, x.requires_grad_()


def served(y):
    return type(y.grad_fn).__name__ == "_ConvolveBackward"


def gradients(conv, x, pull=None):
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = conv(x)
    pull = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (dx,) = torch.autograd.grad(y, x, pull.to(y.dtype), retain_graph=True)
    y.backward(pull.to(y.dtype))
    return y, dx, conv.weight.grad


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape):
    conv, x = case(*shape)
    exact = nn.Conv2d(*shape[1:3], shape[5], shape[6], padding=shape[5] // 2, bias=False).double()
    exact.weight.data.copy_(conv.weight.bfloat16())
    *_, dw = gradients(exact, x.detach().double().requires_grad_())
    plain = gradients(conv, x)
    use_kernel(conv)
    ours = gradients(conv, x)
    assert served(ours[0])
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])
    assert ours[2].dtype == torch.float32
    assert ours[2].stride() == conv.weight.stride()
    # Products of bfloat16 numbers are exact in float32; torch's result is rounded to bfloat16.
    torch.testing.assert_close(ours[2].double(), dw, rtol=1e-4, atol=1e-4 * dw.abs().max().item())
    torch.testing.assert_close(plain[2].double(), dw, rtol=2e-2, atol=2e-2 * dw.abs().max().item())


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[8]], ids=str)
def test_does_not_depend_on_the_number_of_threads(shape):
    conv, x = case(*shape)
    use_kernel(conv)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(conv, x)[2].clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["cifar-resnet8", "resnet50"])
def test_a_model_of_the_catalog_trains_with_it(name):
    model = create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    assert use_cpu_kernels(model)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        model(x).sum().backward()
    convs = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    ours = [each for each in convs if type(each) is Conv2d]
    assert len(ours) == len(convs) - 1
    assert all(each.weight.grad.isfinite().all() for each in convs)


def test_what_it_cannot_compute_is_left_to_torch(monkeypatch):
    conv, x = case(*SHAPES[0])
    use_kernel(conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert served(conv(x))
        assert not served(conv(x.float()))
        with torch.no_grad():
            assert conv(x).grad_fn is None
        conv.eval()
        assert not served(conv(x))
        conv.train()
        conv.weight.requires_grad_(False)
        assert not served(conv(x))
        conv.weight.requires_grad_(True)
        assert served(conv(x))
        monkeypatch.setattr(conv_weight_grad, "_kernel", lambda: None)  # as on another machine
        assert not served(conv(x))
    with torch.autocast("cpu", torch.float16):
        assert conv(x).dtype == torch.float16


@pytest.mark.parametrize(
    "how",
    [
        {"groups": 2},
        {"padding": 0},
        {"padding": 2, "dilation": 2},
        {"padding_mode": "reflect"},
        {"bias": True},
        {"kernel_size": 5, "padding": 2},
        {"out_channels": 24},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(how):
    fields = {"out_channels": 32, "kernel_size": 3, "padding": 1, "bias": False}
    conv = nn.Conv2d(32, **(fields | how))
    use_kernel(conv)
    assert type(conv) is nn.Conv2d


def test_gradients_asked_for_alone_and_maps_of_another_layout():
    conv, x = case(*SHAPES[0])
    use_kernel(conv)
    expected = gradients(conv, x)[1:]
    back = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous())
    with back:
        found = gradients(conv, x)[1:]
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x.detach())
    (dw,) = torch.autograd.grad(y, conv.weight, torch.ones_like(y))
    assert dw.shape == conv.weight.shape


def test_a_model_with_kernels_compiles_whole():
    model = create_model("cifar-resnet8").to(memory_format=torch.channels_last)
    use_cpu_kernels(model)
    whole = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        whole(x).sum().backward()
    assert model.stage1[0].conv1.weight.grad.isfinite().all()


def test_torch_defaults_do_not_reach_the_kernels():
    model = create_model("cifar-resnet8").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def gradient():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(x).square().sum().backward()
        return model.stage1[0].conv1.weight.grad.clone()

    use_cpu_kernels(model)
    expected = gradient()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(gradient(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_block_is_drawn_after_training_too():
    from resnets.diagrams.block import read_flow

    model = create_model("resnet18")
    before = read_flow(model.stage2[0], "block")
    use_cpu_kernels(model)
    assert read_flow(model.stage2[0], "block") == before
