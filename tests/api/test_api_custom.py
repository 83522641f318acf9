"""Networks, blocks, norms, losses and data sets from outside the package, on digits."""

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import resnets
from resnets.cli.main import main
from resnets.data.sources.objects import open_objects
from resnets.models.resnet import BasicBlock, ResNet

OPTIONS = {
    "device": "cpu",
    "quiet": True,
    "precision": "float32",
    "batch_size": 64,
    "eval": {"every": "30it"},
    "log_every": "10it",
    "checkpoint_every": "30it",
}


class TinyNet(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convs(x).mean((2, 3)))


class ScaledBlock(BasicBlock):
    """A block of the paper whose input is scaled by a learned factor."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.factor * x)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def squared_error(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,), as mixed images need."""
    return (logits - F.one_hot(targets, logits.shape[1])).square().mean(1)


def make_tiny(spec: resnets.ModelSpec) -> nn.Module:
    return TinyNet(spec.in_channels, spec.num_classes)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 16, 16) uint8 and labels."""
    splits = resnets.open_data("digits", val_fraction=0, test_fraction=0)
    return splits.train.images[..., 0].numpy(), splits.train.labels.numpy()


class Scans(torch.utils.data.Dataset):
    """Digits as PIL images of several sizes; with `noise`, other ones each time."""

    classes = tuple(f"digit {number}" for number in range(10))

    def __init__(self, rows: range, noise: bool = False) -> None:
        self.images, self.labels = (each[rows] for each in digits())
        self.noise = noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int):
        pixels = self.images[row]
        if self.noise:
            pixels = pixels + np.random.randint(0, 5, pixels.shape).astype(np.uint8)
        size = 16 + row % 3
        return Image.fromarray(pixels).resize((size, size)), int(self.labels[row])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A network and a loss from outside, trained on arrays."""
    images, labels = digits()
    data = {"train": (images[:1300], labels[:1300]), "test": (images[1300:], labels[1300:])}
    out = tmp_path_factory.mktemp("custom") / "run"
    options = {"model": make_tiny, "loss": squared_error, "data": data, "iterations": 60}
    return resnets.train("digits", out=out, **options, **OPTIONS, optim={"lr": 2.0}), data


def test_custom_parts_go_through_the_same_run(tiny_run):
    run, _ = tiny_run
    assert run.recipe.custom == {
        "model": "test_api_custom.TinyNet",
        "loss": "test_api_custom.squared_error",
    }
    assert run.recipe.data.source == "python:arrays"
    assert run.result["test"]["examples"] == 497
    assert run.result["test"]["top1_error"] < 60  # chance is 90
    assert isinstance(run.model.module, TinyNet)
    assert run.report.is_file()
    assert run.result["data_summary"]["name"] == "python:arrays"
    (row,) = [row for row in run.history if row["kind"] == "train" and row["step"] == 60]
    assert row["loss"] < 0.2  # of squared errors


def test_a_checkpoint_names_its_custom_network_and_loads_with_it(tiny_run, tmp_path, capsys):
    run, data = tiny_run
    with pytest.raises(resnets.ConfigError, match=r"test_api_custom\.TinyNet"):
        resnets.load(run.folder)
    assert main(["predict", str(run.folder), "x.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    own = TinyNet(1, 10)
    loaded = resnets.load(run.folder, model=own)
    assert loaded.module is own
    images, labels = (each[:200] for each in data["test"])
    with torch.no_grad():
        logits = loaded(torch.stack([loaded.preprocess(each) for each in images]))
        again = run.model(torch.stack([loaded.preprocess(each) for each in images]))
    assert torch.equal(logits, again)
    found = resnets.predict(run, list(images[:3]))
    assert [each.classes[0] for each in found] == [str(k) for k in logits[:3].argmax(1).tolist()]
    artifact = resnets.export(run, "torch", out=tmp_path / "tiny.pt2", quiet=True)
    (exported,) = resnets.predict(artifact, images[0])
    assert exported.classes[0] == found[0].classes[0]
    error = 100 * (logits.argmax(1).numpy() != labels).mean()
    measured = resnets.evaluate(run, (images, labels), quiet=True, precision="float32")
    assert measured.evaluation.top1_error == pytest.approx(error)
    with pytest.raises(resnets.ConfigError, match="custom network"):
        resnets.load(run.folder, model=own).stages(torch.zeros(1, 1, 16, 16))


def test_evaluation_on_other_data_excludes_training_images(tiny_run):
    run, data = tiny_run
    both = tuple(np.concatenate([data["train"][k], data["test"][k]]) for k in (0, 1))
    measured = resnets.evaluate(run, both, quiet=True)
    assert measured.evaluation.examples == 497
    with pytest.raises(resnets.ConfigError, match="Python object"):
        resnets.evaluate(run, quiet=True)
    with pytest.raises(resnets.DataError, match="trained on"):
        resnets.evaluate(run, data["train"], quiet=True)


def test_a_resumed_custom_run_is_the_uninterrupted_one(tiny_run, tmp_path):
    run, data = tiny_run
    out = tmp_path / "cut"
    options = {"model": make_tiny, "loss": squared_error, "data": data}

    class StoppedError(Exception):
        pass

    def stopping(logits, targets):
        stopping.steps += 1
        if stopping.steps == 45:
            raise StoppedError
        return squared_error(logits, targets)

    stopping.steps = 0
    with pytest.raises(StoppedError):
        resnets.train(
            "digits", out=out, **options | {"loss": stopping}, iterations=60, **OPTIONS,
            optim={"lr": 2.0},
        )  # fmt: skip
    for missing in ("model", "loss", "data"):
        given = {name: part for name, part in options.items() if name != missing}
        with pytest.raises(resnets.ConfigError, match=rf"{missing}=\.\.\."):
            resnets.train(out=out, resume=True, device="cpu", quiet=True, **given)
    resumed = resnets.train(out=out, resume=True, device="cpu", quiet=True, **options)
    ours, theirs = resumed.model.state_dict(), run.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("squared_error" in each["note"] for each in resumed.result["history"])


def test_blocks_and_norms_of_the_package_networks(tmp_path):
    make = functools.partial(ResNet, block=ScaledBlock, norm=group_norm)
    options = {"model": make, "iterations": 2}
    net = resnets.recipes.recipe("digits", "cifar-resnet8")
    run = resnets.train(net, out=tmp_path / "run", **options, **OPTIONS)
    assert run.recipe.custom == {
        "block": "test_api_custom.ScaledBlock",
        "norm": "test_api_custom.group_norm",
    }
    assert run.recipe.model.name == "cifar-resnet8"
    with pytest.raises(resnets.ConfigError, match="ScaledBlock"):
        resnets.load(run.folder)
    loaded = resnets.load(run.folder, make)
    assert isinstance(loaded.stage1[0], ScaledBlock)
    assert loaded.stages(torch.zeros(1, 1, 16, 16))["stage3"].shape == (1, 64, 4, 4)


def test_a_data_set_of_several_sizes_has_class_names_and_a_fingerprint(tmp_path):
    data = {"train": Scans(range(400)), "val": Scans(range(400, 500))}
    options = {"data": data, "iterations": 3, "model": "cifar-resnet8"}
    fields = OPTIONS | {"eval": {"every": "3it"}}
    run = resnets.train("digits", out=tmp_path / "run", **options, **fields, **{"data.size": 16})
    assert run.model.classes == Scans.classes
    assert run.recipe.data.source == "python:test_api_custom.Scans"
    assert run.result["val"]["examples"] == 100
    (summary,) = (run.model.fingerprint.counts(),)
    assert summary["val"] == 100
    assert np.count_nonzero(run.model.fingerprint.content) == len(run.model.fingerprint)
    measured = resnets.evaluate(run, data, "val", quiet=True, precision="float32", device="cpu")
    error = run.result["val"]["top1_error"]
    assert measured.evaluation.top1_error == pytest.approx(error, abs=1.1)  # read at another size


def test_images_that_change_have_no_fingerprint_and_the_run_says_so(tmp_path):
    options = {"data": Scans(range(300), noise=True), "iterations": 2, "model": "cifar-resnet8"}
    run = resnets.train("digits", out=tmp_path / "run", **options, **OPTIONS, **{"data.size": 16})
    assert not run.model.fingerprint.content.any()
    assert any("fingerprint" in note for note in run.result["data_summary"]["notes"])


def test_a_python_data_set_is_split_like_any_other():
    splits = resnets.open_data(digits())
    ours = resnets.open_data("digits")
    assert splits.val is not None
    assert torch.equal(splits.val.labels, ours.val.labels)  # by the identity of the pixels
    assert torch.equal(splits.test().images, ours.test().images)


def test_forms_of_data_give_the_same_images():
    images, labels = (each[:40] for each in digits())
    names = [f"digit {label}" for label in labels]
    forms = {
        "arrays": (images, labels),
        "tensors": (torch.from_numpy(images)[:, None], torch.from_numpy(labels)),
        "floats": (images / np.float32(255), labels),
        "pairs": list(zip(images, labels, strict=True)),
        "iterable": (pair for pair in zip(images, labels, strict=True)),
        "loader": torch.utils.data.TensorDataset(
            torch.from_numpy(images)[:, None], torch.from_numpy(labels)
        ),
        "names": list(zip(map(Image.fromarray, images), names, strict=True)),
    }
    for name, form in forms.items():
        source = open_objects(form)
        assert len(source.classes) == 10, name
        np.testing.assert_array_equal(source.train.images[..., 0], images, err_msg=name)
        np.testing.assert_array_equal(source.train.labels, labels, err_msg=name)
    assert source.classes == tuple(f"digit {number}" for number in range(10))


@pytest.mark.parametrize(
    "data",
    [
        (np.zeros((4, 8, 8)) + 7, np.arange(4)),  # floats beyond 1
        (np.zeros((4, 8, 8), np.int64), np.arange(4)),
        (np.zeros((4, 8, 8, 5), np.uint8), np.arange(4)),
        (np.zeros((4, 8, 8), np.uint8), np.arange(5)),
        (np.zeros((4, 8, 8), np.uint8), np.array([0, 1, -1, 1])),
        (np.zeros((4, 8, 8), np.uint8), [0, 1, 2**40, 1]),  # no range of class names is built
        [(np.zeros((8, 8), np.uint8), (0, 2**40)), (np.zeros((8, 8), np.uint8), (1,))],
        (np.zeros((4, 8, 8), np.uint8), [(0, 1), (0,), (1,), (0,)]),  # ragged
        ([np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)], [0, 1]),
        {"validation": (np.zeros((4, 8, 8), np.uint8), np.arange(4)), "train": []},
        [1, 2, 3],
        iter(()),
        object(),
    ],
)
def test_other_data_are_refused_in_one_line(data):
    with pytest.raises(resnets.DataError):
        open_objects(data)


def test_networks_and_losses_that_do_not_fit_are_refused(tmp_path):
    options = {"iterations": 1, **OPTIONS}
    with pytest.raises(resnets.ConfigError, match="recompute"):
        resnets.train("digits", model=make_tiny, recompute=True, out=tmp_path / "model", **options)
    for model in (TinyNet(1, 7), TinyNet(3, 10), nn.Identity(), lambda spec: None):
        with pytest.raises(resnets.ConfigError):
            resnets.train("digits", model=model, out=tmp_path / "model", **options)
    for field, value in (("label_smoothing", 0.1), ("loss.class_weights", "auto")):
        fields = {"loss": nn.CrossEntropyLoss(), field: value}
        with pytest.raises(resnets.ConfigError, match=field):
            resnets.train("digits", out=tmp_path / "loss", **options, **fields)
    with pytest.raises(resnets.ConfigError):
        resnets.train("digits", loss=lambda x, y: x, out=tmp_path / "loss", **options)
    assert not (tmp_path / "model").exists()


@pytest.mark.ci
def test_a_mean_loss_is_that_of_the_package(tmp_path):
    options = {"iterations": 3, "model": "cifar-resnet8", **OPTIONS}
    own = resnets.train("digits", out=tmp_path / "own", **options)
    theirs = resnets.train("digits", loss=nn.CrossEntropyLoss(), out=tmp_path / "theirs", **options)
    ours, other = own.model.state_dict(), theirs.model.state_dict()
    assert all(torch.equal(ours[name], other[name]) for name in other)
    mixed = {**options, "data.augment": {"mixup": 0.2}}
    with pytest.raises(resnets.ConfigError, match="mixed"):
        resnets.train("digits", loss=nn.CrossEntropyLoss(), out=tmp_path / "mean", **mixed)
    loss = nn.CrossEntropyLoss(reduction="none")
    run = resnets.train("digits", loss=loss, out=tmp_path / "mixed", **mixed)
    again = resnets.train("digits", out=tmp_path / "ours", **mixed)
    ours, other = run.model.state_dict(), again.model.state_dict()
    assert all(torch.allclose(ours[name], other[name], atol=1e-6) for name in other)
    assert json.loads((run.folder / "result.json").read_text()) == run.result
