"""A small net that has learnt scikit-learn's digits, for tests of what follows training."""

import dataclasses
from itertools import islice
from pathlib import Path

import torch
from checkpoint_files import save_checkpoint
from torch.nn import functional as F

from resnets.config import DataSpec, Recipe, to_dict
from resnets.data import TrainStream, fit_preprocess, open_data
from resnets.models import build, catalog


def save_digits_run(folder: Path) -> Path:
    """`folder` as a run with a net that reads scikit-learn's digits."""
    data = DataSpec(source="digits")
    splits = open_data(data)
    model = dataclasses.replace(
        catalog.spec("cifar-resnet8", num_classes=10, input_size=8), in_channels=1
    )
    torch.manual_seed(0)
    net, preprocessor = build(model), fit_preprocess(splits.train, data, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    stream = TrainStream(splits.train, data, preprocessor, 64, 0, torch.device("cpu"))
    for batch in islice(stream.batches(), 80):
        F.cross_entropy(net.train()(batch.images), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
    meta = {
        "step": 80,
        "recipe": to_dict(Recipe(model=model, data=data)),
        "classes": list(splits.classes),
        "preprocess": to_dict(preprocessor.spec),
    }
    save_checkpoint(folder / "checkpoints" / "last.safetensors", tensors, meta)
    return folder
