"""First logits and first loss of freshly initialised models, which may not drift.

After a change that is meant to alter them: `python tests/models/test_golden.py` writes them anew.
"""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from paths import GOLDEN

from resnets.models import build, catalog

EXPECTED = GOLDEN / "models.json"
NETS = [
    "cifar-resnet20",
    "cifar-plain20",
    "cifar-preact-resnet20",
    "cifar-resnet164",
    "resnet18",
    "resnet34-a",
    "resnet50-v1",
    "preact-resnet50",
    "resnext50_32x4d",
]


def first_numbers(name: str) -> dict[str, Any]:
    """Logits of the first of four fixed images (in part) and the training loss of all.

    In float64: batch norm over so few images would enlarge the rounding of one CPU or another.
    """
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        model = build(catalog.spec(name, num_classes=10))
    finally:
        torch.set_default_dtype(torch.float32)
    images = torch.linspace(-2, 2, 4 * 3 * 32 * 32, dtype=torch.float64).mul(7).sin()
    logits = model(images.reshape(4, 3, 32, 32))
    loss = F.cross_entropy(logits, torch.arange(4))
    return {"logits": [round(x, 5) for x in logits[0, :4].tolist()], "loss": round(loss.item(), 5)}


@pytest.mark.parametrize("name", NETS)
def test_first_logits_and_loss(name: str) -> None:
    golden = json.loads(EXPECTED.read_text(encoding="utf-8"))[name]
    found = first_numbers(name)
    assert found["logits"] == pytest.approx(golden["logits"], abs=2e-5)
    assert found["loss"] == pytest.approx(golden["loss"], abs=2e-5)


if __name__ == "__main__":
    numbers = {name: first_numbers(name) for name in NETS}
    EXPECTED.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
