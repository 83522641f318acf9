"""Parity with torchvision in both directions, and weights that do not fit."""

import logging
from importlib import metadata
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

import resnets
from resnets.config import ConfigError, ModelSpec
from resnets.models import Net, build, catalog
from resnets.weights.initial import adapt_input
from resnets.weights.maps import WeightsError, detect, name_map, own_map

SHARED = [
    name
    for name in catalog.names()
    if name.replace("-", "_") in torchvision_models.list_models(module=torchvision_models)
]
TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)


def random_state(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random values for every tensor of `net` (on meta), sized so that signals stay of order 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return torch.tensor(seed)
        values = torch.empty(like.shape)
        if like.dim() > 1:
            bound = (3 / like[0].numel()) ** 0.5
            return values.uniform_(-bound, bound, generator=generator)
        positive = name.endswith(("running_var", "weight"))
        return values.uniform_(0.5 if positive else -0.5, 1.0, generator=generator)

    return {name: draw(name, tensor) for name, tensor in net.state_dict().items()}


def pair(name: str) -> tuple[Net, nn.Module]:
    """Ours and torchvision's net of that name, on meta: they hold no memory until filled."""
    with torch.device("meta"):
        ours = build(catalog.spec(name))
        theirs = torchvision_models.get_model(name.replace("-", "_"))
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("direction", ["to torchvision", "from torchvision"])
@pytest.mark.parametrize("name", SHARED)
def test_same_logits_with_the_same_weights(name: str, direction: str) -> None:
    ours, theirs = pair(name)
    names = name_map("torchvision", ours)
    if direction == "to torchvision":
        state = random_state(ours, seed=1)
        ours.load_state_dict(state, assign=True)
        theirs.load_state_dict(names.to_foreign(state), assign=True)
    else:
        state = random_state(theirs, seed=2)
        theirs.load_state_dict(state, assign=True)
        ours.load_state_dict(names.to_own(state), assign=True)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, found = theirs(pictures), ours(pictures)
    assert expected.std() > 1e-2
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["resnet50", "vgg16-bn", "cifar-plain20", "resnet18-a"])
def test_there_and_back_is_the_same(name: str) -> None:
    with torch.device("meta"):
        net = build(catalog.spec(name))
    names = name_map("torchvision", net)
    state = net.state_dict()
    back = names.to_own(names.to_foreign(state))
    assert all(back[key] is tensor for key, tensor in state.items())
    assert len(back) == len(state)


def test_tensors_left_over_or_missing_are_named() -> None:
    net = build(TINY)
    names = name_map("torchvision", net)
    theirs = names.to_foreign(net.state_dict())
    del theirs["layer1.0.conv2.weight"]
    theirs["layer9.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        names.to_own(theirs)
    assert "no place for (layer9.0.conv1.weight)" in str(caught.value)
    assert "missing (layer1.0.conv2.weight)" in str(caught.value)


def test_files_older_than_batch_counters_load() -> None:
    net = build(TINY)
    names = name_map("torchvision", net)
    theirs = names.to_foreign(net.state_dict())
    old = {key: value for key, value in theirs.items() if "num_batches" not in key}
    assert names.to_own(old).keys() == net.state_dict().keys()


def test_detection_of_names() -> None:
    net = build(TINY)
    theirs = name_map("torchvision", net)
    assert detect(net.state_dict(), net) == own_map(net)
    assert detect(theirs.to_foreign(net.state_dict()), net) == theirs
    assert detect(["encoder.layer.0"], net) is None


def test_torchvision_has_no_preactivation_nets() -> None:
    net = build(catalog.spec("cifar-preact-resnet20"))
    with pytest.raises(WeightsError, match="torchvision has no net like cifar-preact-resnet20"):
        name_map("torchvision", net)
    assert detect(net.state_dict(), net) == own_map(net)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("naming", ["own", "torchvision"])
def test_model_from_a_file(tmp_path: Path, naming: str, suffix: str) -> None:
    net = build(TINY)
    state = net.state_dict()
    if naming == "torchvision":
        state = name_map("torchvision", net).to_foreign(state)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = resnets.create_model(TINY, weights=str(path))
    assert found.origin == str(path)
    for key, value in found.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def test_other_classes_and_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = build(TINY)
    path = tmp_path / "weights.pth"
    torch.save(name_map("torchvision", net).to_foreign(net.state_dict()), path)
    with caplog.at_level(logging.WARNING):
        found = resnets.create_model(TINY, num_classes=7, in_channels=1, weights=str(path))
    assert "head for 3 classes replaced by a new one for 7" in caplog.text
    assert "adapted from 3 to 1 input channels" in caplog.text
    assert found.spec.num_classes == found.head.out_features == 7
    assert found.spec.in_channels == 1
    trunk = net.get_submodule("stage2").state_dict()
    for key, value in found.get_submodule("stage2").state_dict().items():
        assert torch.equal(value, trunk[key])
    grey = torch.randn(2, 1, 32, 32)
    net.eval(), found.eval()
    torch.testing.assert_close(
        found.stages(grey)["stage2"], net.stages(grey.repeat(1, 3, 1, 1))["stage2"]
    )


def test_input_of_more_channels_keeps_the_size_of_the_response() -> None:
    weight = torch.randn(2, 3, 7, 7)
    wide = adapt_input(weight, 6)
    assert wide.shape == (2, 6, 7, 7)
    torch.testing.assert_close(wide.sum(1), weight.sum(1))
    torch.testing.assert_close(wide[:, 3], weight[:, 0] / 2)


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
        torch.save({"epoch": 3, "state": state}, path)
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
        ("pickle", "cannot be read as weights"),
        ("nested", "not a state dict .* but keys epoch, state"),
        ("foreign", r"none of its 1 tensors \(encoder.weight\) is known to tiny"),
        ("deeper", r"it has no place for \(stage1.1.conv1.weight"),
        ("wider", r"another shape than in tiny: stage2.0.conv1.weight \(16, 4, 3, 3\) for"),
        ("nan", "not finite in 1 tensors: stem.conv.weight"),
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


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet18", "missing.pth", "missing.pth: no such file"),
        ("cifar-resnet20", "torchvision:DEFAULT", "torchvision has none for cifar-resnet20"),
        ("resnet50", "torchvision:V9", "no 'V9' for resnet50; known: IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_unknown_weights_are_config_errors(name: str, weights: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resnets.create_model(name, weights=weights)


def test_torchvision_weights_are_refused_by_a_net_that_computes_otherwise() -> None:
    spec = catalog.spec("resnet50", stride_in="1x1")
    with pytest.raises(ConfigError, match="has stride_in '3x3', this net '1x1'"):
        resnets.create_model(spec, weights="torchvision:DEFAULT")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    return tmp_path


def test_no_network_says_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(hub / "checkpoints" / "resnet18-f37072fd.pth") in message


def test_torchvision_weights_come_from_the_hub_folder(hub: Path) -> None:
    _, theirs = pair("resnet18")
    state = random_state(theirs, seed=4)
    (hub / "checkpoints").mkdir()
    torch.save(state, hub / "checkpoints" / "resnet18-f37072fd.pth")
    net = resnets.create_model("resnet18", num_classes=10, weights="torchvision:DEFAULT")
    assert torch.equal(net.get_submodule("stem.conv").weight, state["conv1.weight"])
    assert net.head.out_features == 10


def test_damaged_file_in_the_hub_folder_is_named(hub: Path) -> None:
    (hub / "checkpoints").mkdir()
    file = hub / "checkpoints" / "resnet18-f37072fd.pth"
    file.write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="damaged .*; delete it and try again") as caught:
        resnets.create_model("resnet18", weights="torchvision:DEFAULT")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_version_is_the_packages() -> None:
    assert resnets.__version__ == metadata.version("resnets")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = resnets.nothing
