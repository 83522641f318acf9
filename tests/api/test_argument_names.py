"""Errors and the log of the Python API name its arguments, those of commands their options."""

import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import resnets
from resnets.api.recipe import choose_recipe
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.data.transforms.preprocess import Preprocessor
from resnets.utils.api_function import api_function
from resnets.utils.argument_names import options_to_arguments
from resnets.utils.printable import echo


@api_function
def translate(text, *, model=None, fit_memory=False, precision="", resume=False, **fields):
    echo(text, error=True)
    raise ConfigError(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x: give --model NAME: it fits", "x: give model=NAME: it fits"),
        ("--model and --precision are both set", "model and precision are both set"),
        ("leave --model out (--model)", "leave model out (model)"),
        ("--set: unknown field lr", "fields: unknown field lr"),
        ("try --fit-memory, --set a.b=1 or --set c=2", "try fit_memory=True, a.b=1 or c=2"),
        ("--int8: needs data", "precision=int8: needs data"),
        ("or --resume runs/x-1", "or out=runs/x-1, resume=True"),
        ("use `resnets export --model X`", "use `resnets export --model X`"),  # a command
        ("npm --version and --unknown x", "npm --version and --unknown x"),
        ("a--model b", "a--model b"),  # of a file
        ("or --resume s3://b/x: it ends", "or out=s3://b/x, resume=True: it ends"),
        ("seed: --model sets it too", "seed: model sets it too"),
        ("--model of x", "model of x"),
        ("--model set.tar: is", "model=set.tar: is"),
        ("--int8 --model X", "precision=int8 model=X"),
    ],
)
def test_options_become_arguments(text, expected, capsys):
    with pytest.raises(ConfigError) as caught:
        translate(text)
    assert str(caught.value) == expected
    assert capsys.readouterr().err == f"{expected}\n"
    assert options_to_arguments(text) == text  # outside a call


def test_python_and_the_command_line_name_their_own(tmp_path, capsys):
    net = resnets.create_model("cifar-resnet8", num_classes=3, in_channels=1)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"; give model=NAME") as caught:
        resnets.predict(path, "x.png")
    assert "--" not in str(caught.value)
    assert main(["predict", path, "x.png"]) == 2
    assert "; give --model NAME" in capsys.readouterr().err
    for call, argument in (
        (lambda: resnets.predict(path, [], model="cifar-resnet8", threshold=0.9), "threshold"),
        (lambda: resnets.export(path, max_drop=3), "max_drop"),
        (lambda: resnets.train("digits", epochs=1, iterations=1), "epochs and iterations"),
        (lambda: resnets.train("digits", seed=1, **{"data.size": 8, "detect.flip": True}), "train"),
    ):
        with pytest.raises(ConfigError, match=argument) as caught:
            call()
        assert not re.search(r"--\w", str(caught.value))


@pytest.mark.parametrize("task", ["localize", "segment"])
def test_models_without_a_threshold_refuse_one(tmp_path, task):
    file = tmp_path / "model.safetensors"
    save_file({}, file, {"resnets": json.dumps({"recipe": {"task": task}})})
    with pytest.raises(ConfigError, match="threshold: only for detectors"):
        resnets.predict(str(file), [], threshold=0.9)


def loaded_model():
    net = resnets.create_model("cifar-resnet8", classes=["a", "b", "c"])
    net.preprocess = Preprocessor(resnets.Preprocess())
    return net


def test_arguments_that_a_loaded_model_does_not_read_are_refused(tmp_path):
    net = loaded_model()
    for call in (
        lambda: resnets.predict(net, [], model="resnet18"),
        lambda: resnets.evaluate(net, model="resnet18"),
        lambda: resnets.export(net, model="resnet18"),
        lambda: resnets.recompute_norm(net, model="resnet18"),
    ):
        with pytest.raises(ConfigError, match="model: only for weights in a file"):
            call()


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda net: resnets.evaluate(net, split="validation"), "split"),
        (lambda net: resnets.evaluate(net, views="ten crop"), "views"),
        (lambda net: resnets.evaluate(net, average="median"), "average"),
        (lambda net: resnets.predict(net, [], backend="tensorrt"), "backend"),
        (lambda net: resnets.export(net, "openvivo"), "to"),
        (lambda net: resnets.export(net, precision="fp32"), "precision"),
    ],
)
def test_a_value_that_is_not_a_choice_is_refused(call, argument):
    net = resnets.create_model("cifar-resnet8", num_classes=3)
    with pytest.raises(ConfigError, match=rf"^{argument}=.*must be one of '"):
        call(net)


def test_loaded_models_can_be_combined_with_others(tmp_path):
    net = loaded_model()
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ConfigError, match="artifact cannot be part of an ensemble"):
        resnets.evaluate([net, tmp_path / "net.onnx"])
    file = tmp_path / "model.safetensors"
    save_file({}, file, {"resnets": json.dumps({"recipe": {"task": "detect"}})})
    with pytest.raises(ConfigError, match="same task"):
        resnets.evaluate([net, file])


def test_unknown_fields_name_the_field_that_was_meant():
    with pytest.raises(ConfigError, match=r"unknown field valfraction; did you mean val_fraction"):
        resnets.open_data("digits", valfraction=0.2)
    with pytest.raises(ConfigError, match=r"unknown field lr; did you mean optim\.lr\?"):
        resnets.train("digits", lr=0.1)


def test_fields_that_are_paths_may_be_path_objects(tmp_path):
    recipe = choose_recipe(
        "digits", fields={"weights": tmp_path / "1", "distill": {"teacher": resnets.Run("a")}}
    )
    assert (recipe.weights, recipe.distill.teacher) == (str(tmp_path / "1"), "a")


def test_fields_in_addition_to_a_spec_are_read():
    spec = resnets.DataSpec(source="digits", val_fraction=0.1)
    more = resnets.open_data(spec, val_fraction=0.4)
    assert len(more.val) > 2 * len(resnets.open_data(spec).val)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnets.train("digits", epochs="3"), "epochs='3': must be a number"),
        (lambda: resnets.train("digits", iterations=1.5), "iterations=1.5: must be a whole number"),
        (lambda: resnets.train("digits", model=3), "model=3: must be text, a ModelSpec, a Module"),
        (lambda: resnets.train("digits", hang_after=-1), "hang_after=-1 must be at least 0"),
        (lambda: resnets.evaluate("run", scales=224), "scales=224: must be a sequence of numbers"),
        (lambda: resnets.evaluate("run", flip="no"), "flip='no': must be True or False"),
        (lambda: resnets.predict("run", [], top_k="3"), "top_k='3': must be a whole number"),
        (lambda: resnets.predict([3], []), "weights=<list>: must be text, a path or a Module"),
        (lambda: resnets.load(None), "weights=None: must be text or a path"),
        (lambda: resnets.create_model(3), "=3: must be text or a ModelSpec"),
        (lambda: resnets.list_models(3), "pattern=3: must be text"),
        (lambda: resnets.Run(3), "folder=3: must be text or a path"),
        (lambda: resnets.study.folds(3), "data=3: must be text or a path"),
        (lambda: resnets.study.folds("digits", "5"), "k='5': must be a whole number"),
        (lambda: resnets.study.folds("digits", lr=1), "fields: unknown field lr; did you mean"),
        (lambda: resnets.study.data("digits", lr=1), "fields: unknown field lr; did you mean"),
        (lambda: resnets.study.depth(["cifar-resnet8"], sweep={"optim.lr": 1}), "sweep: optim.lr"),
        (lambda: resnets.study.depth(3), "models=3: must be a sequence of text"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "--" not in str(caught.value)


def test_numpy_numbers_and_any_iterable_are_taken():
    @api_function
    def mean(
        values: Sequence[int], scale: float = 1, count: int | None = None, whole: bool = False
    ) -> float:
        total = scale * sum(values) / (count or 1)
        return round(total) if whole else total

    assert mean(np.arange(4), np.float32(2), np.int64(3)) == 4
    assert mean([2, 1], scale=0.5, whole=np.any([True])) == 2
    assert mean(range(4), scale=1) == 6
    with pytest.raises(ConfigError, match="values=.*: must be a sequence of numbers"):
        mean((1, "a"))


def test_a_device_of_torch_is_taken_by_its_name():
    @api_function
    def name(device: str = "auto") -> str:
        return device

    assert name(torch.device("cuda:1")) == name(device="cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="device=1: must be text"):
        name(1)


@pytest.mark.parametrize("call", [resnets.predict, lambda: resnets.predict("run", [], top=1)])
def test_arguments_that_do_not_fit_are_reported_with_the_function(call):
    with pytest.raises(TypeError, match=r"predict\(\) (missing|got an unexpected)"):
        call()
