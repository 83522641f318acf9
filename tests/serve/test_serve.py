"""Responses and errors of `resnets serve`."""

import base64
import io
import json
import logging
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import save_checkpoint
from PIL import Image
from serving import Running, encoded_image, running, save_classifier, save_detector, watched_files
from small_models import CLASSES

from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.evaluate.postprocess import probabilities
from resnets.export.select_backend import open_backend
from resnets.serve.registry import Source

RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("nets")
    return {
        "net": save_classifier(folder / "net.safetensors"),
        "other": save_classifier(folder / "other.safetensors", seed=5),
        "finder": save_detector(folder / "finder.safetensors"),
    }


@pytest.fixture(scope="module")
def served(paths: dict[str, str]):
    named = (f"net@1={paths['other']}", f"net@2={paths['net']}", f"finder={paths['finder']}")
    with running(*named, upload=200_000, pixels=1_000_000, images=8) as found:
        yield found


def expected(path: str, data: bytes) -> dict[str, float]:
    """Probabilities by class, without the server."""
    backend = open_backend(path, device="cpu")
    pixels = backend.preprocess.to_tensor(Image.open(io.BytesIO(data)))
    logits = backend.logits(pixels.permute(1, 2, 0).numpy()[None])
    shares = probabilities(logits, backend.postprocess)[0]
    return dict(zip(backend.classes, shares.tolist(), strict=True))


def test_one_image_in_every_form_gets_the_models_own_prediction(served: Running, paths):
    data = encoded_image()
    text = base64.b64encode(data).decode()
    answers = [
        served.client.post("/predict", content=data, headers={"content-type": "image/png"}),
        served.client.post("/predict", content=data, headers=RAW),
        served.client.post("/predict", files={"a": ("a.png", data)}),
        served.client.post("/predict", json={"picture": text}),
        served.client.post("/predict", json={"images": [f"data:image/png;base64,{text}"]}),
    ]
    wanted = expected(paths["net"], data)
    for answer in answers:
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["model"], said["version"], said["task"]) == ("net", "2", "classify")
        rows = said["predictions"][0]["classes"]
        assert [row["class"] for row in rows] == sorted(wanted, key=wanted.get, reverse=True)
        for row in rows:
            assert row["probability"] == pytest.approx(wanted[row["class"]], abs=0.02)


def test_many_images_are_answered_in_order(served: Running, paths):
    several = [
        encoded_image(30 + n, 40, seed=n, form=f) for n, f in enumerate(("PNG", "JPEG", "WEBP"))
    ]
    files = [("images", (f"{n}", data)) for n, data in enumerate(several)]
    answer = served.client.post("/predict?top_k=1&model=net@1", files=files).json()
    best = [row["classes"][0]["class"] for row in answer["predictions"]]
    wanted = [expected(paths["other"], data) for data in several]
    assert best == [max(each, key=each.get) for each in wanted]
    assert answer["version"] == "1"


def test_detector_answers_with_boxes_of_the_stored_image(served: Running):
    data = encoded_image(200, 100)
    answer = served.client.post("/predict?model=finder&threshold=0", content=data, headers=RAW)
    (seen,) = answer.json()["predictions"]
    assert (seen["width"], seen["height"]) == (200, 100)
    assert seen["objects"]
    scores = [found["score"] for found in seen["objects"]]
    assert scores == sorted(scores, reverse=True)
    boxes = np.array([found["box"] for found in seen["objects"]])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 200).all()
    assert boxes[:, 2].max() > 100
    assert (boxes[:, 3] <= 100).all()
    none = served.client.post("/predict?model=finder&threshold=1", content=data, headers=RAW)
    assert none.json()["predictions"][0]["objects"] == []


def test_explanation_is_a_image_of_the_class_asked_for(served: Running):
    shown = {}
    for name in (*CLASSES, None):
        query = {} if name is None else {"class": name}
        answer = served.client.post("/explain", params=query, content=encoded_image(), headers=RAW)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        image = Image.open(io.BytesIO(answer.content))
        assert image.size == (320, 320)
        shown[name] = (answer.headers["x-class"], np.asarray(image))
    best = served.client.post("/predict", content=encoded_image(), headers=RAW).json()
    best = best["predictions"][0]["classes"][0]["class"]
    assert shown[None][0] == best
    assert np.array_equal(shown[None][1], shown[best][1])
    assert any(not np.array_equal(shown[best][1], shown[name][1]) for name in CLASSES)


def flat(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, format="PNG")
    return out.getvalue()


BOMB = flat(4000, 1000)  # 12 kB that become 12 MB
REFUSED = [
    (400, "not JSON", "/predict", b"{", "application/json"),
    (400, "must be", "/predict", b"[" * 100_000, "application/json"),
    (400, "must be", "/predict", b'{"a": 1}', "application/json"),
    (400, "list", "/predict", b'{"images": "x"}', "application/json"),
    (400, "image 1 is not base64", "/predict", b'{"images": ["*"]}', "application/json"),
    (400, "no image", "/predict", b'{"images": []}', "application/json"),
    (400, "empty", "/predict", b"", "image/png"),
    (400, "multipart", "/predict", b"x", "multipart/form-data"),
    (400, "multipart", "/predict", b"--a\r\nx", "multipart/form-data; boundary=a"),
    (415, "neither", "/predict", b"x", "text/plain"),
    (415, "neither", "/predict", encoded_image(), "application/x-www-form-urlencoded"),
    (422, "image 1: cannot be read", "/predict", b"x", "image/png"),
    (422, "cannot be read", "/predict", encoded_image()[:-40], "image/png"),
    (422, "cannot be read", "/predict", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ""),
    (413, "megapixels", "/predict", BOMB, "image/png"),
    (413, "megapixels", "/explain", BOMB, "image/png"),
    (413, "more than 8 images", "/predict", json.dumps({"images": ["aa=="] * 9}).encode(),
     "application/json"),
    (422, "top_k", "/predict?top_k=0", encoded_image(), "image/png"),
    (422, "top_k", "/predict?top_k=many", encoded_image(), "image/png"),
    (422, "threshold", "/predict?threshold=nan", encoded_image(), "image/png"),
    (404, "no model", "/predict?model=../../etc/passwd", encoded_image(), "image/png"),
    (404, "no model", "/predict?model=net@3", encoded_image(), "image/png"),
    (422, "unicorn", "/explain?class=unicorn", encoded_image(), "image/png"),
    (422, "classifiers", "/explain?model=finder", encoded_image(), "image/png"),
    (404, "Not Found", "/../../etc/passwd", b"", ""),
    (404, "Not Found", "/page.css/../serve.py", b"", ""),
    (403, "token", "/admin/reload", b"", ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "path", "body", "kind"), REFUSED)
def test_what_is_wrong_is_rejected_with_a_reason(served, status, reason, path, body, kind):
    answer = served.client.post(path, content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]
    assert answer.json()["status"] == status
    assert answer.json()["request"] == answer.headers["x-request-id"]
    assert served.accepted == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_not_read_to_its_end(served: Running, chunked: bool):
    """The refusal comes while most of the body has not been sent."""
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: 999999999999"
    with served.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\n" + framing + b"\r\n\r\n")
        if chunked:
            connection.sendall((b"10000\r\n" + bytes(0x10000) + b"\r\n") * 4)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    served.until(lambda: served.service.intake.readers == 0)
    assert served.service.intake.buffered == 0


def test_invalid_http_gets_json_too(served: Running):
    with served.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"] == "Invalid HTTP request received"


def test_a_token_is_required_for_all_but_page_and_health(paths):
    with running(f"net={paths['net']}", token="s3cret") as served:
        bare = {"authorization": ""}
        for path in ("/", "/page.js", "/page.css", "/icon.svg", "/healthz", "/readyz"):
            assert served.client.get(path, headers=bare).status_code == 200
        for path in ("/models", "/metrics", "/docs", "/openapi.json", "/nowhere"):
            refused = served.client.get(path, headers=bare)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        for said in ("Bearer", "Bearer x", "Basic s3cret", "s3cret", "Bearer s3cret2"):
            assert served.client.get("/models", headers={"authorization": said}).status_code == 401
        assert served.client.get("/models").status_code == 200
        assert served.client.post("/admin/reload").json()["models"]


OURS = ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "10.1.2.3", "nets.example:80")
OTHERS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "[::1].x", "")


def test_dns_rebinding_is_rejected(paths):
    with running(f"net={paths['net']}", hosts=("Nets.Example",)) as served:
        for host in OURS:
            assert served.client.get("/models", headers={"host": host}).status_code == 200, host
        for host in OTHERS:
            for path in ("/models", "/", "/healthz"):
                refused = served.client.get(path, headers={"host": host})
                assert refused.status_code == 421, host
                assert "--allowed-host" in refused.json()["error"]


def test_page_and_documents_need_no_other_server(served: Running):
    for path in ("/", "/docs"):
        page = served.client.get(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "//" not in page.text.replace("http://HOST:PORT", "")
    routes = served.client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/explain", "/models", "/healthz", "/readyz", "/metrics"} <= set(routes)
    assert all(route in served.client.get("/docs").text for route in routes)


def test_metrics_count(served: Running):
    def value() -> float:
        lines = served.client.get("/metrics").text.splitlines()
        row = 'resnets_requests_total{route="/predict",status="200"} '
        return next((float(line[len(row) :]) for line in lines if line.startswith(row)), 0.0)

    before = value()
    served.client.post("/predict", content=encoded_image(), headers=RAW)
    assert value() == before + 1


def _of(caplog, route: str) -> list[dict]:
    return [each.fields for each in caplog.records if each.fields.get("route") == route]


def test_log_names_no_file_and_holds_no_image(served: Running, caplog):
    with caplog.at_level("INFO", "resnets.serve"):
        served.client.post("/predict?top_k=2", files={"a": ("my-passport.png", encoded_image())})
        served.until(lambda: _of(caplog, "/predict"))
    fields = _of(caplog, "/predict")[-1]
    assert fields["images"] == 1
    assert fields["status"] == 200
    assert fields["bytes"] > len(encoded_image())
    assert not {"passport", "top_k"} & set(json.dumps(fields).split())
    assert set(fields) <= {
        "request", "method", "bytes", "model", "images", "status", "route", "milliseconds",
    }  # fmt: skip


def test_names_of_models():
    assert Source.parse("a@2=/x/net.onnx") == Source("a", "2", "/x/net.onnx")
    assert Source.parse("/x/my net.onnx").name == "my-net"
    assert Source.parse("run/checkpoints/best.safetensors").name == "run"
    for bad in ("a/b=/x", "=x", "a=", "a@=x"):
        with pytest.raises(ConfigError, match="NAME=PATH"):
            Source.parse(bad)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no such run or checkpoint"),
        (["x", "--port", "99999"], "--port"),
        (["x", "--max-batch", "0"], "--max-batch"),
        (["x", "--max-batch", "1000000000"], "--max-batch"),
        (["x", "--queue", "0"], "--queue"),
        (["x", "--max-delay-ms", "nan"], "--max-delay-ms"),
        (["x", "--token-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["x", "--max-latency-ms", "1"], "--max-latency-ms"),
    ],
)
def test_command_refuses_in_one_line(words, said, capsys):
    assert main(["serve", *words, *([] if "--port" in words else ["--port", "0"])]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("task", ["text", "signals"])
def test_models_of_texts_and_signals_are_refused_as_such(task, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, {"model/x": torch.zeros(1)}, {"recipe": {"task": task}})
    handlers = logging.getLogger("resnets").handlers
    assert main(["serve", str(path), "--port", "0"]) == 2
    assert logging.getLogger("resnets").handlers is handlers  # of a program that calls `main`
    error = capsys.readouterr().err
    assert repr(task) in error
    assert "objects" not in error


def test_a_port_in_use_is_reported(paths, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", paths["net"], "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_path_is_never_opened_for_a_request(served: Running, tmp_path: Path):
    """Whatever names a request brings, no file is opened while it is answered."""
    target = tmp_path / "secret.png"
    target.write_bytes(encoded_image())
    served.client.post("/predict", content=encoded_image(), headers=RAW)  # all is imported now
    with watched_files() as opened:
        for name in (str(target), f"../../{target}", "file:///etc/passwd"):
            served.client.post("/predict", files={name: (name, b"nothing")})
            served.client.post("/predict", json={"images": [name]})
            served.client.post("/predict", params={"model": name}, content=b"x")
            served.client.post("/explain", params={"class": name}, content=encoded_image())
            served.client.get(f"/{name}")
        assert opened == []
        target.read_bytes()
    assert opened == [str(target)]
