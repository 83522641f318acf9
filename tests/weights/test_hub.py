"""Published weights by name: fetched from a server of our own, kept, checked, or asked for."""

import hashlib
import http.server
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision import models
from weights_state import make_run, random_state

import resnets
from resnets.config import ConfigError, Preprocess
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.push import push

V1 = models.ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch, the Hub and ours, and no network beyond this machine."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "resnets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


class Server:
    """Files over HTTP, with the headers that the Hub's clients want."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                data = outer.files.get(self.path)
                if data is None:
                    known = any(path.startswith(self.path[:9]) for path in outer.files)
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        running.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """torchvision's resnet18, random."""
    return random_state(models.resnet18(), seed=4)


@pytest.fixture
def published(
    server: Server, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[Server, str]:
    """A file on the server, named after its hash; torchvision's V1 points at it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    name = f"resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    server.files[f"/{name}"] = data
    monkeypatch.setattr(V1.value, "url", f"{server.url}/{name}")
    return server, name


def test_torchvision_weights_are_fetched_once(published, caches: Path, state) -> None:
    server, name = published
    for _ in range(2):
        net = resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    assert torch.equal(net.get_submodule("stem.conv").weight, state["conv1.weight"])
    assert server.asked == [f"/{name}"]
    assert (caches / "torch" / "checkpoints" / name).is_file()
    assert net.classes[:2] == ("tench", "goldfish")
    assert net.origin == "torchvision:IMAGENET1K_V1"


def test_a_complete_model_by_name(published) -> None:
    net = resnets.load("torchvision:resnet18.IMAGENET1K_V1")
    assert not net.training
    assert len(net.classes) == 1000
    with pytest.raises(ConfigError, match=r"torchvision:resnet50\.DEFAULT"):
        resnets.load("torchvision:DEFAULT")


def test_other_bytes_than_promised_are_not_kept(published, caches: Path) -> None:
    server, name = published
    server.files[f"/{name}"] += b"x"
    with pytest.raises(WeightsError, match="the download is another file .*; try again"):
        resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    assert not list((caches / "torch" / "checkpoints").iterdir())


def test_a_file_put_there_by_hand_is_checked(published, caches: Path) -> None:
    server, name = published
    file = caches / "torch" / "checkpoints" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(server.files[f"/{name}"])
    resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    file.write_bytes(b"another file")
    with pytest.raises(WeightsError, match="damaged or another file .*; delete it") as caught:
        resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.asked == []


def test_no_network_says_what_to_fetch_and_where_to_put_it(caches: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resnets.create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(caches / "torch" / "checkpoints" / "resnet18-f37072fd.pth") in message
    with pytest.raises(WeightsError) as caught:
        resnets.create_model("resnet50", weights="timm:resnet50.a1_in1k")
    message = str(caught.value)
    assert "/timm/resnet50.a1_in1k/resolve/main/model.safetensors" in message
    assert str(caches / "resnets" / "hub" / "timm" / "resnet50.a1_in1k") in message
    assert "\n" not in message


TIMM_CONFIG = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "test_crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}


def test_timm_weights_come_with_their_preprocessing(server: Server, state) -> None:
    place = "/timm/resnet18.a1_in1k/resolve/main/"
    server.files[place + "model.safetensors"] = safetensors.torch.save(state)
    server.files[place + "config.json"] = json.dumps(TIMM_CONFIG).encode()
    for _ in range(2):
        net = resnets.create_model("resnet18", weights="timm:resnet18.a1_in1k")
    assert torch.equal(net.get_submodule("stem.conv").weight, state["conv1.weight"])
    fetched = [path for path in server.asked if path.startswith(place)]
    assert sorted(fetched) == [place + "config.json", place + "model.safetensors"]
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.interpolation) == (288, 303, "bicubic")
    assert net.classes[0] == "tench"
    server.files.clear()
    net = resnets.load("timm:resnet18.a1_in1k")  # from the cache: the server has lost it
    assert net.origin == "timm:resnet18.a1_in1k"


def test_a_damaged_file_in_the_hubs_cache_is_noticed(server: Server, caches: Path, state) -> None:
    place = "/timm/resnet18.a1_in1k/resolve/main/"
    server.files[place + "model.safetensors"] = safetensors.torch.save(state)
    server.files[place + "config.json"] = json.dumps(TIMM_CONFIG).encode()
    resnets.create_model("resnet18", weights="timm:resnet18.a1_in1k")
    (cached,) = (caches / "hf").rglob("model.safetensors")
    data = bytearray(cached.read_bytes())
    data[-1] ^= 1
    cached.resolve().write_bytes(data)
    with pytest.raises(WeightsError, match="damaged or another file"):
        resnets.create_model("resnet18", weights="timm:resnet18.a1_in1k")


def test_an_adapter_in_a_repository_is_refused(server: Server, state) -> None:
    place = "/pets/tuned/resolve/main/"
    server.files[place + "model.safetensors"] = safetensors.torch.save(state)
    server.files[place + "adapter_config.json"] = b"{}"
    with pytest.raises(WeightsError, match="merge_and_unload"):
        resnets.create_model("resnet18", weights="hub:pets/tuned")


def test_files_put_into_the_cache_by_hand(caches: Path, state) -> None:
    place = caches / "resnets" / "hub" / "timm" / "resnet18.a1_in1k"
    place.mkdir(parents=True)
    safetensors.torch.save_file(state, place / "model.safetensors")
    net = resnets.create_model("resnet18", weights="timm:resnet18.a1_in1k")
    assert net.preprocess is None  # no config.json, nothing said
    (place / "config.json").write_text(json.dumps(TIMM_CONFIG))
    net = resnets.create_model("resnet18", num_classes=3, weights="timm:resnet18.a1_in1k")
    assert net.preprocess.spec.resize == 303
    assert net.spec.input_size == 224  # what it was trained at
    assert net.classes == ()


def test_a_pushed_network_comes_back_from_the_hub(server: Server, tmp_path: Path) -> None:
    seen = Preprocess(size=32, resize=36, mean_image=True)
    run = make_run(tmp_path / "run", catalog.spec("cifar-resnet8", num_classes=3), seen)
    push(str(run), str(tmp_path / "pets"))
    for file in (tmp_path / "pets").iterdir():
        server.files[f"/org/pets/resolve/main/{file.name}"] = file.read_bytes()
    net, expected = resnets.load("hub:org/pets"), resnets.load(run)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), expected(images))
    assert torch.equal(net.preprocess.mean_image, expected.preprocess.mean_image)
    assert (net.classes, net.origin) == (expected.classes, "hub:org/pets")
    start = resnets.create_model("cifar-resnet8", 3, weights="hub:org/pets@main")
    assert torch.equal(start.head.weight, expected.head.weight)


def test_a_repository_that_is_not_there(server: Server) -> None:
    server.files["/org/somewhere/else"] = b""
    with pytest.raises(ConfigError, match="hub:no/body"):
        resnets.create_model("resnet18", weights="hub:no/body")
    with pytest.raises(WeightsError, match="hub:org/some.*model.safetensors"):
        resnets.create_model("resnet18", weights="hub:org/some")


@pytest.mark.parametrize(
    ("net", "weights", "words"),
    [
        ("resnet18", "missing.pth", "missing.pth: no such file"),
        ("resnet50", "torchvison:DEFAULT", "did you mean torchvision:DEFAULT"),
        ("cifar-resnet20", "torchvision:DEFAULT", "torchvision has none for cifar-resnet20"),
        ("resnet50", "torchvision:IMAGENET1K_V9", "did you mean IMAGENET1K_V"),
        ("resnet50", "timm:resnet50.a1_ink1", r"did you mean a1_in1k\? \(newer ones: hub:timm/"),
        ("resnet50", "timm:resnet5O.a1_in1k", r"timm has none for 'resnet5O' here; did you mean"),
        (
            "resnet18",
            "timm:resnet50.a1_in1k",
            "network with block 'bottleneck', but resnet18",
        ),
        ("vgg16", "torchvision:IMAGENET1K_FEATURES", "use IMAGENET1K_V1"),
        ("resnet18", "hub:resnet18", "write it as hub:ORG/NAME"),
    ],
)
def test_unknown_names_suggest_the_nearest(caches, net: str, weights: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resnets.create_model(net, weights=weights)
    assert "\n" not in str(caught.value)


def test_a_misspelled_file_suggests_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "resnet18.pth").touch()
    with pytest.raises(ConfigError, match=r"did you mean .*resnet18\.pth\?"):
        resnets.create_model("resnet18", weights=str(tmp_path / "resnet-18.pth"))


def test_named_weights_are_refused_for_a_different_network() -> None:
    spec = catalog.spec("resnet50", stride_in="1x1")
    with pytest.raises(ConfigError, match="stride_in '3x3'.*resnet50.*'1x1'"):
        resnets.create_model(spec, weights="torchvision:DEFAULT")


def test_imagenet_weights_for_small_gray_images(
    published, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    spec = catalog.spec("resnet18", stem="cifar", input_size=32)
    net = resnets.create_model(spec, 10, 1, "torchvision:IMAGENET1K_V1")
    assert "7x7 kernel of the stem adapted to 3x3" in caplog.text
    assert "adapted from 3 to 1 input channels" in caplog.text
    assert "head for 1000 classes replaced by a new one for 10" in caplog.text
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.channels) == (32, 32, 1)
    assert seen.mean == pytest.approx((0.449,), abs=1e-3)
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert net.stages(torch.randn(2, 1, 32, 32))["stage1"].shape == (2, 64, 32, 32)


def test_name_maps_give_the_published_names(state) -> None:
    ours = build(catalog.spec("resnet18"))
    assert build_name_map("torchvision", ours).to_foreign(ours.state_dict()).keys() == state.keys()
