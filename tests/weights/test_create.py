"""Nets from weight files: what is adapted and said, what is refused in one line."""

import dataclasses
import logging
from importlib import metadata
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from checkpoint_files import save_checkpoint
from weights_state import random_state

import resnets
from resnets.config import (
    AugmentSpec,
    ConfigError,
    DataSpec,
    ModelSpec,
    Preprocess,
    Recipe,
    to_dict,
)
from resnets.data import TensorSplit
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import build, catalog
from resnets.weights.adapt import adapt_input, adapt_preprocess_to_data, adapt_stem, resize
from resnets.weights.errors import CheckpointError, WeightsError
from resnets.weights.name_maps.maps import build_name_map

TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "resnets")
    return caplog


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("naming", ["own", "torchvision"])
def test_model_from_a_file(tmp_path: Path, naming: str, suffix: str) -> None:
    net = build(TINY)
    state = net.state_dict()
    if naming == "torchvision":
        state = build_name_map("torchvision", net).to_foreign(state)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = resnets.create_model(TINY, weights=str(path))
    assert found.origin == str(path)
    assert found.preprocess is None
    for key, value in found.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def test_other_classes_and_channels(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    net = build(TINY)
    path = tmp_path / "weights.pth"
    torch.save(build_name_map("torchvision", net).to_foreign(net.state_dict()), path)
    found = resnets.create_model(TINY, num_classes=7, in_channels=1, weights=str(path))
    assert "head for 3 classes replaced by a new one for 7" in said.text
    assert "adapted from 3 to 1 input channels" in said.text
    assert {record.name for record in said.records} == {"resnets"}
    assert found.spec.num_classes == found.head.out_features == 7
    assert found.spec.in_channels == 1
    trunk = net.get_submodule("stage2").state_dict()
    for key, value in found.get_submodule("stage2").state_dict().items():
        assert torch.equal(value, trunk[key])
    gray = torch.randn(2, 1, 32, 32)
    net.eval(), found.eval()
    torch.testing.assert_close(
        found.stages(gray)["stage2"], net.stages(gray.repeat(1, 3, 1, 1))["stage2"]
    )


def test_input_of_more_channels_keeps_the_size_of_the_response() -> None:
    weight = torch.randn(2, 3, 7, 7)
    wide = adapt_input(weight, 6)
    assert wide.shape == (2, 6, 7, 7)
    torch.testing.assert_close(wide.sum(1), weight.sum(1))
    torch.testing.assert_close(wide[:, 3], weight[:, 0] / 2)


def test_a_small_stem_equals_the_large_one_on_the_enlarged_image() -> None:
    weight, small = torch.randn(5, 3, 7, 7), torch.randn(2, 3, 12, 12)
    large = F.interpolate(small, size=4 * 11 + 1, mode="bilinear", align_corners=True)
    expected = F.conv2d(large, weight, stride=4, padding=3)
    found = F.conv2d(small, adapt_stem(weight), padding=1)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-4, rtol=1e-4)


def test_conv_biases_follow_the_file(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    net = build(dataclasses.replace(TINY, conv_bias="stem"))
    state = build_name_map("torchvision", net).to_foreign(random_state(net, seed=1))
    torch.save(state, tmp_path / "biased.pth")
    found = resnets.create_model(TINY, weights=str(tmp_path / "biased.pth"))
    assert found.spec.conv_bias == "stem"
    assert "conv_bias 'stem'" in said.text
    assert torch.equal(found.get_submodule("stem.conv").bias, state["conv1.bias"])


def run_folder(tmp_path: Path, spec: ModelSpec, preprocess: Preprocess) -> Path:
    """A run with one checkpoint, of random weights."""
    net = build(spec)
    tensors = {f"model/{name}": value for name, value in net.state_dict().items()}
    if preprocess.mean_image:
        size = (preprocess.channels, preprocess.size, preprocess.size)
        tensors["preprocess/mean_image"] = torch.rand(size)
    meta = {
        "recipe": to_dict(Recipe(model=spec)),
        "classes": ["a", "b", "c"],
        "preprocess": to_dict(preprocess),
        "step": 3,
    }
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors", tensors, meta)
    return tmp_path / "run"


def test_a_run_is_a_source_of_weights(tmp_path: Path) -> None:
    spec = dataclasses.replace(TINY, block="bottleneck", stride_in="1x1")
    seen = Preprocess(size=32, resize=36, mean_image=True)
    run = run_folder(tmp_path, spec, seen)
    asked = dataclasses.replace(spec, stride_in="3x3")
    for source in (run, run / "checkpoints" / "best.safetensors"):
        net = resnets.create_model(asked, weights=str(source))
        assert net.spec.stride_in == "1x1"
        assert net.classes == ("a", "b", "c")
        assert net.preprocess.spec == seen
        assert torch.equal(net.head.weight, resnets.load(run).head.weight)
    assert resnets.create_model(asked, num_classes=2, weights=str(run)).classes == ()
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        resnets.create_model(spec, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("field", "theirs", "ours"),
    [
        ("shortcut", "none", "A"),  # the plain network and its residual counterpart
        ("shortcut", "A", "none"),
        ("block", "basic", "relu-before-add-basic"),
        ("shortcut_scale", 0.5, 1.0),
        ("branch_scale", 1.0, 0.5),
        ("depths", (1, 1), (1, 2)),
    ],
)
def test_a_run_of_a_different_network(
    tmp_path: Path, field: str, theirs: object, ours: object
) -> None:
    base = dataclasses.replace(TINY, shortcut="A")
    run = run_folder(
        tmp_path, dataclasses.replace(base, **{field: theirs}), Preprocess(size=32, resize=36)
    )
    with pytest.raises(ConfigError, match=f"model.{field}"):
        resnets.create_model(dataclasses.replace(base, **{field: ours}), weights=str(run))


@pytest.mark.parametrize(
    ("field", "ours"), [("stem", "cifar"), ("dilate", 1), ("input_size", 64), ("dropout", 0.1)]
)
def test_a_run_of_a_network_that_weights_may_be_adapted_to(
    tmp_path: Path, field: str, ours: object
) -> None:
    run = run_folder(tmp_path, TINY, Preprocess(size=32, resize=36))
    asked = dataclasses.replace(TINY, **{field: ours})
    assert getattr(resnets.create_model(asked, weights=str(run)).spec, field) == ours


def test_preprocessing_for_other_sizes_and_planes() -> None:
    image = torch.rand(3, 8, 8)
    spec = Preprocess(size=8, resize=10, mean=(0.2, 0.4, 0.6), channel_order="bgr", mean_image=True)
    known = Preprocessor(spec, image)
    assert resize(known, 8, 12).mean_image is image
    larger = resize(known, 16, 20, "bicubic")
    assert larger.mean_image is None
    assert larger.spec.mean == pytest.approx(image.mean((1, 2)).tolist())
    assert (larger.spec.size, larger.spec.resize) == (16, 20)
    assert (larger.spec.interpolation, larger.spec.channel_order) == ("bicubic", "bgr")


def test_fine_tuning_keeps_the_weights_normalization() -> None:
    """Sizes are the recipe's; mean, deviation, order and interpolation the weights'."""
    spec = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), interpolation="bicubic")
    known = Preprocessor(dataclasses.replace(spec, channel_order="bgr"))
    pixels = torch.zeros(4, 40, 40, 3, dtype=torch.uint8)
    split = TensorSplit(pixels, torch.zeros(4, dtype=torch.int64), ("a",), "four")
    data = DataSpec(size=32, resize=36, augment=AugmentSpec(), normalize="channel")
    found = adapt_preprocess_to_data(known, split, data, 3).spec
    assert (found.size, found.resize, found.mean) == (32, 36, (0.1, 0.2, 0.3))
    assert (found.interpolation, found.channel_order) == ("bicubic", "bgr")
    gray = adapt_preprocess_to_data(known, split, data, 1).spec
    assert (gray.channels, gray.mean, gray.channel_order) == (1, pytest.approx((0.2,)), "rgb")
    read = dataclasses.replace(split, prepared=(32, 36, "bilinear"))
    assert adapt_preprocess_to_data(known, read, data, 3).spec.interpolation == "bilinear"


def broken(kind: str, path: Path) -> None:
    """A file that cannot serve as weights of TINY."""
    state = build(TINY).state_dict()
    if kind == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no weights here")
    elif kind == "pickle":
        torch.save(Path("anything"), path)
    elif kind == "nested":
        torch.save({"epoch": 3, "state": {"lr": 0.1}}, path)
    elif kind == "foreign":
        torch.save({"encoder.weight": torch.zeros(2)}, path)
    elif kind == "deeper":
        torch.save(build(ModelSpec(depths=(2, 1), widths=(4, 8), stem_width=4)).state_dict(), path)
    elif kind == "wider":
        torch.save(build(ModelSpec(depths=(1, 1), widths=(4, 16), stem_width=4)).state_dict(), path)
    elif kind == "nan":
        state["stem.conv.weight"][0] = float("nan")
        torch.save(state, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", "cannot be read as weights"),
        ("empty", "cannot be read as weights"),
        ("text", "cannot be read as weights"),
        ("pickle", "contains a pickled pathlib"),
        ("nested", "not a state dict .* but keys epoch, state"),
        ("foreign", r"none of its 1 tensors \(encoder.weight\) belongs to tiny"),
        ("deeper", r"\(stage1.1.conv1.weight"),
        ("wider", r"another shape than in tiny: stage2.0.conv1.weight \(16, 4, 3, 3\) for"),
        ("nan", "not finite in 1 tensor: stem.conv.weight"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "weights.pth"
    broken(kind, path)
    with pytest.raises(WeightsError, match=words) as caught:
        resnets.create_model(TINY, weights=str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(build(TINY).state_dict(), whole)
    noise = torch.Generator().manual_seed(0)
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"noise{suffix}"
        for length in range(1, 200, 3):
            data = torch.randint(0, 256, (length,), generator=noise, dtype=torch.uint8)
            path.write_bytes(data.numpy().tobytes())
            with pytest.raises(WeightsError):
                resnets.create_model(TINY, weights=str(path))
    for share in range(1, 10):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * share // 10])
        with pytest.raises(WeightsError):
            resnets.create_model(TINY, weights=str(cut))


def test_unknown_models_and_missing_weights() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        resnets.create_model("resnet5O")
    assert resnets.create_model(catalog.spec("cifar-resnet20")).origin == "random initialization"


@pytest.mark.parametrize("classes", ["a,b,c", ["a", "b", "c"]])
@pytest.mark.parametrize("num_classes", [3, None])
def test_classes_are_text_or_a_sequence(
    classes: str | list[str], num_classes: int | None, tmp_path: Path
) -> None:
    net = resnets.create_model(TINY, num_classes=num_classes, classes=classes)
    assert (net.classes, net.head.out_features) == (("a", "b", "c"), 3)
    net.preprocess = Preprocessor(Preprocess())
    net.save(tmp_path / "net")
    loaded = resnets.create_model(TINY, weights=tmp_path / "net", classes=classes)
    assert torch.equal(loaded.head.weight, net.head.weight)  # the head of the same classes is kept


def test_names_of_imagenet_and_numbers_give_their_number_of_classes() -> None:
    assert len(resnets.create_model(TINY, classes="imagenet").classes) == 1000
    assert resnets.create_model(TINY, classes="numbers").classes == ("0", "1", "2")


def test_weights_that_are_not_text_are_one_clear_line() -> None:
    from torchvision.models import ResNet18_Weights

    for weights, hint in ((True, "DEFAULT"), (ResNet18_Weights.DEFAULT, "IMAGENET1K_V1")):
        with pytest.raises(ConfigError, match=f"did you mean torchvision:{hint}"):
            resnets.create_model("resnet18", weights=weights)  # type: ignore[arg-type]


def test_version_is_the_packages() -> None:
    assert resnets.__version__ == metadata.version("resnets")
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = resnets.nothing


def test_fields_of_the_spec_are_arguments() -> None:
    net = resnets.create_model("cifar-resnet20", 7, drop_path=0.1, widths=[16, 32, 48])
    expected = catalog.spec("cifar-resnet20", num_classes=7, drop_path=0.1, widths=(16, 32, 48))
    assert net.spec == expected
    with pytest.raises(ConfigError, match=r"unknown field in_chans; did you mean in_channels\?"):
        resnets.create_model("resnet18", in_chans=1)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet50", "write weights='torchvision:DEFAULT'"),
        ("resnet50d", "write weights='timm:resnet50d.a1_in1k'"),
        ("cifar-resnet56", "write weights='resnets:cifar10/cifar-resnet56'"),
        ("plain34", "no weights are published for plain34"),
    ],
)
def test_pretrained_says_which_weights_to_name(name: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=f"^pretrained: {advice}"):
        resnets.create_model(name, pretrained=True)


def test_pretrained_false_is_a_model_with_random_weights():
    assert resnets.create_model("cifar-resnet8", num_classes=3, pretrained=False).classes == ()
