"""Ghost batches: the statistics of each, the gradients, the running statistics, micro-batches."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnets.config import ConfigError, Recipe, replace_fields
from resnets.data.batch import Batch
from resnets.models import build, catalog
from resnets.models.norm import (
    AllReduceBatchNormAct2d,
    BatchNormAct1d,
    BatchNormAct2d,
    GhostBatchNormAct2d,
    SyncBatchNormAct,
    convert_batch_norms,
    convert_norm,
    use_cpu_kernels,
)
from resnets.ops import compiler
from resnets.train.data_parallel import DataParallelModel, running_statistics
from resnets.train.loss import classification_loss
from resnets.train.state import new_state
from resnets.train.step import TrainStep

OFF = torch.autocast("cpu", enabled=False)


def ghost(channels: int, images: int, relu: bool = True) -> GhostBatchNormAct2d:
    model = nn.Sequential(BatchNormAct2d(channels, relu=relu))
    nn.init.uniform_(model[0].weight)
    nn.init.uniform_(model[0].bias)
    convert_batch_norms(model, images, sync=False)
    assert isinstance(model[0], GhostBatchNormAct2d)
    return model[0]


def test_each_ghost_is_normalized_by_itself_and_the_running_statistics_take_their_mean():
    norm = ghost(8, 4, relu=False).double()
    plain = nn.BatchNorm2d(8).double()
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(12, 8, 5, 5, dtype=torch.float64) * 3 + 1
    parts = x.split(4)
    expected = torch.cat([copy.deepcopy(plain)(part) for part in parts])
    assert torch.allclose(norm(x), expected, atol=1e-12)
    assert int(norm.num_batches_tracked) == 0
    norm.update_running_stats()
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(norm.running_mean, 0.1 * mean)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * variance)
    assert int(norm.num_batches_tracked) == 1
    plain.load_state_dict(norm.state_dict())  # the same names
    assert torch.equal(norm.eval()(x), plain.eval()(x))


@pytest.mark.skipif(compiler.load_library("norm") is None, reason="no C compiler")
@pytest.mark.parametrize("shortcut", [False, True])
def test_the_kernel_computes_ghosts_as_torch_does(shortcut):
    slow, fast = ghost(16, 4), ghost(16, 4)
    fast.load_state_dict(slow.state_dict())
    use_cpu_kernels(fast)
    x = torch.randn(12, 16, 8, 8).to(memory_format=torch.channels_last)
    added = torch.randn_like(x) if shortcut else None
    weight = torch.randn_like(x)
    found = []
    for norm in (slow, fast):
        mine = x.clone().requires_grad_()
        extra = None if added is None else added.clone().requires_grad_()
        (norm(mine, extra) * weight).sum().backward()
        norm.update_running_stats()
        grads = [mine.grad, norm.weight.grad, norm.bias.grad]
        grads += [] if extra is None else [extra.grad]
        found.append([*grads, norm.running_mean, norm.running_var])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)
    assert int(fast.num_batches_tracked) == 1


def step(recipe: Recipe, batch: Batch) -> nn.Module:
    torch.manual_seed(0)
    model = build(recipe.model)
    convert_batch_norms(model, recipe.norm_batch, sync=False)
    state = new_state(model, recipe, 10)
    TrainStep(state, DataParallelModel(model), classification_loss(), OFF, recipe)(batch)
    assert state.interval.count == len(batch)
    return model


def recipe(**changes: object) -> Recipe:
    model = catalog.spec("cifar-resnet8", num_classes=5)
    return replace_fields(Recipe(model=model, batch_size=24), {"batch_size": 24, **changes})


def test_gradients_add_up_to_those_of_one_pass():
    images, ids = torch.randn(24, 3, 32, 32), torch.arange(24)
    batch = Batch(images, ids % 5, ids)
    whole = step(recipe(norm_batch=4), batch)
    for micro in (4, 8, 11, 16):  # 11: two whole ghosts; 16: an uneven rest
        parts = step(recipe(norm_batch=4, micro_batch=micro), batch)
        for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
            assert torch.allclose(one, other, atol=2e-6), (micro, name)
        for one, other in zip(whole.buffers(), parts.buffers(), strict=True):
            assert torch.allclose(one.double(), other.double(), atol=1e-6), micro
    unlike = step(recipe(micro_batch=8), batch)  # without ghosts the statistics differ
    assert not torch.allclose(whole.head.weight, unlike.head.weight, atol=2e-6)


def test_batches_are_counted_once_a_pass_by_the_loop_and_by_the_norm_alone():
    images, ids = torch.randn(24, 3, 32, 32), torch.arange(24)
    model = step(recipe(micro_batch=8), Batch(images, ids % 5, ids))
    counters = [each for name, each in model.named_buffers() if name.endswith("batches_tracked")]
    assert [int(each) for each in counters] == [3] * 7  # three passes of eight images
    alone = build(recipe().model).train()
    alone(images)
    alone(images)
    counters = [each for name, each in alone.named_buffers() if name.endswith("batches_tracked")]
    assert [int(each) for each in counters] == [2] * 7


def test_no_norm_counts_batches_by_itself_in_a_step():
    """One addition of all counters in place of one kernel per norm and pass."""

    class Additions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.add_.Tensor and args[0].dtype == torch.int64:
                self.count += 1
            return func(*args, **(kwargs or {}))

    signals = nn.Sequential(BatchNormAct1d(4), nn.Flatten(), nn.Linear(20, 2))
    ghosts = nn.Sequential(ghost(4, 4), nn.Flatten(), nn.Linear(80, 2))
    reduced = nn.Sequential(BatchNormAct2d(4), nn.Flatten(), nn.Linear(80, 2))
    convert_batch_norms(reduced, 0, sync=True)
    for model, x, counted in (
        (signals, torch.randn(8, 4, 5), 2),
        (ghosts, torch.randn(8, 4, 5, 4), 1),
        (reduced, torch.randn(8, 4, 5, 4), 2),
    ):
        forward = DataParallelModel(model.train())
        forward.prepare()
        with Additions() as additions:
            forward(x)
            forward(x)
            forward.update_running_stats(1.0)
        assert additions.count == 0, type(model[0])
        assert int(model[0].num_batches_tracked) == counted


def test_statistics_of_signals_are_averaged_over_processes():
    assert len(running_statistics(nn.Sequential(BatchNormAct1d(4), nn.BatchNorm1d(4)))) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_batch": 5}, "norm_batch: batch_size=24 "),
        ({"norm_batch": 8, "micro_batch": 4}, "micro_batch: 4 "),
        ({"norm_batch": -1}, "norm_batch"),
        ({"sync_norm": True, "norm_batch": 8}, "sync_norm: "),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        recipe(**changes)


@pytest.mark.parametrize("relu", [True, False])
def test_a_norm_that_torch_synchronizes_keeps_relu_and_shortcut(relu):
    norm = BatchNormAct2d(8, relu=relu)
    nn.init.normal_(norm.bias)
    x, shortcut = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 5, 5)
    with torch.no_grad():
        norm(x)  # statistics that differ from the initial ones
        synchronized = convert_norm(norm, SyncBatchNormAct, relu).eval()
        assert isinstance(synchronized, nn.SyncBatchNorm)
        assert torch.equal(synchronized(x, shortcut), norm.eval()(x, shortcut))
        assert torch.equal(synchronized(x), norm(x))


def test_only_norms_that_learn_by_their_own_images_are_exchanged():
    model = build(catalog.spec("cifar-resnet8"))
    norms = sum(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert len(running_statistics(model)) == 2 * norms
    assert running_statistics(model.eval()) == []
    convert_batch_norms(model.train(), 0, sync=True)
    assert running_statistics(model) == []
    assert sum(isinstance(each, AllReduceBatchNormAct2d) for each in model.modules()) == norms
