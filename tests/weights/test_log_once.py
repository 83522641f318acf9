"""Weights that a command reads twice are described once."""

import logging

import pytest
import torch

from resnets.api.recipe import choose_recipe
from resnets.bulk.model import open_bulk_model, weights_sha256
from resnets.models import build, catalog
from resnets.train.run import open_task
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.printable import without_log
from resnets.weights.load import LoadOptions

UNSTATED = "does not specify its network"


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.pth"
    net = build(catalog.spec("cifar-resnet8", num_classes=10, in_channels=1))
    torch.save(net.state_dict(), path)
    return str(path)


def count(caplog, text):
    return sum(text in message for message in caplog.messages)


def test_weights_that_are_fine_tuned_for_int8(plain, caplog):
    caplog.set_level("INFO", "resnets")
    recipe = choose_recipe("qat", data="digits", model="cifar-resnet8", fields={"weights": plain})
    open_task(recipe, None, CustomParts())
    assert count(caplog, UNSTATED) == 1
    assert count(caplog, "weights_head=keep keeps it") == 1  # for classes without names


def test_weights_of_bulk_prediction(plain, caplog):
    options = LoadOptions("cifar-resnet8", "numbers")
    digest = weights_sha256(plain, options)
    open_bulk_model(plain, backend="torch", device="cpu", precision="float32", loading=options)
    assert count(caplog, UNSTATED) == 1
    assert digest == weights_sha256(plain, options)


def test_loggers_of_modules_are_silent_too(caplog):
    with caplog.at_level("WARNING"), without_log():
        logging.getLogger("resnets.weights.checkpoint.find").warning("read before")
    assert not caplog.records
