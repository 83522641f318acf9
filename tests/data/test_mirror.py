"""Classes that mirroring would mix up are said before training."""

import logging

import pytest

from resnets.config import AugmentSpec, replace_fields
from resnets.data.transforms.augment import mirror_warning
from resnets.recipes import recipe
from resnets.train.tasks.classification import ClassificationTask


@pytest.mark.parametrize(
    ("classes", "warns"),
    [
        (tuple("0123456789"), True),
        (("b", "d"), True),
        (("Turn Left", "stop", "turn right"), True),
        (("left_lung", "right_lung"), True),
        (("cat", "dog"), False),
        (("left-handed", "other"), False),
        (("n01440764", "n02102040"), False),
        (("A",), False),
    ],
)
def test_classes_that_mirroring_changes(classes, warns):
    assert (mirror_warning(classes, AugmentSpec(flip=True)) is not None) is warns
    assert (mirror_warning(classes, AugmentSpec(rotate90=True)) is not None) is warns
    assert mirror_warning(classes, AugmentSpec()) is None


@pytest.mark.parametrize("flip", [True, False])
def test_training_warns_about_mirroring_digits(caplog, flip):
    mirrored = replace_fields(recipe("digits", "cifar-resnet8"), {"data.augment.flip": flip})
    with caplog.at_level(logging.WARNING, logger="resnets"):
        ClassificationTask.open(mirrored)
    assert ("data.augment.flip=false" in caplog.text) is flip


def test_the_digits_recipe_does_not_mirror():
    assert not recipe("digits").data.augment.flip
