"""The average of the weights by ordinary steps; that of a graph is in test_cuda_graph.py."""

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnets.train.optim.ema import AveragedModel


class Operators(TorchDispatchMode):
    """Counts the operators that compute: a view of a tensor does not."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.detach.default:
            self.count[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def test_an_update_is_one_call_for_all_tensors() -> None:
    """One for integers, which are copied, and one for the rest, however many layers there are."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(4)]
    model = nn.Sequential(*layers)
    averaged = AveragedModel(model, decay=0.2)
    expected = [each.double() for each in model.state_dict().values()]
    for number in range(3):
        with torch.no_grad():
            for each in model.state_dict().values():
                each.add_(1 if each.dtype == torch.int64 else torch.randn_like(each))
        with Operators() as operators:
            averaged.update_parameters(model)
        copies = Counter({"_foreach_copy_": 1})
        assert operators.count == copies + Counter({"_foreach_lerp_": int(number > 0)})
        decay = [0.0, 2 / 11, 0.2][number]  # (1 + n) / (10 + n) after n updates, at most 0.2
        for index, each in enumerate(model.state_dict().values()):
            kept = decay if each.is_floating_point() else 0.0
            expected[index] = kept * expected[index] + (1 - kept) * each.double()
        for found, right in zip(averaged.module.state_dict().values(), expected, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-6)
    assert averaged.n_averaged == 3
