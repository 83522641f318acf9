"""Options in URL and body, typed answers, probes, CORS and previews of `resnets serve`."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from serving import Running, encoded_image, running, save_classifier, save_detector

from resnets.cli.main import main
from resnets.data.decode.decode import decode_whole
from resnets.serve.registry import Source
from resnets.serve.schemas import (
    Alive,
    ErrorResponse,
    PredictResponse,
    Ready,
    Reloaded,
    ServedModel,
)

RAW = {"content-type": "application/octet-stream"}
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("nets")
    models = (
        f"net={save_classifier(folder / 'net.safetensors')}",
        f"finder={save_detector(folder / 'finder.safetensors')}",
    )
    with running(*models, images=4, token="s3cret", origins=(ORIGIN,)) as found:
        yield found


def test_options_next_to_the_images_are_those_of_the_url(served: Running):
    data = encoded_image()
    text = base64.b64encode(data).decode()
    answers = [
        served.client.post("/predict?top_k=2", content=data, headers=RAW),
        served.client.post("/predict", files={"images": ("a", data)}, data={"top_k": "2"}),
        served.client.post("/predict", json={"images": [text], "top_k": 2, "model": "net"}),
        served.client.post("/predict?model=net", json={"top_k": "2", "image": text}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    first, *others = (answer.json()["predictions"] for answer in answers)
    assert len(first[0]["classes"]) == 2
    assert others == [first] * 3
    found = served.client.post(
        "/predict", files={"images": ("a", data)}, data={"model": "finder", "threshold": "0"}
    )
    assert found.json()["model"] == "finder"
    shown = served.client.post("/explain", files={"image": ("a", data)}, data={"class": "dog"})
    assert shown.headers["x-class"] == "dog"


@pytest.mark.parametrize(
    ("status", "path", "sent"),
    [
        (422, "/predict?topk=3", {"content": encoded_image()}),
        (422, "/explain?top_k=3", {"content": encoded_image()}),
        (422, "/predict?top_k=3", {"files": {"a": ("a", encoded_image())}, "data": {"top_k": "2"}}),
        (422, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"top_k": "none"}}),
        (422, "/predict", {"json": {"image": "aaaa", "top_k": []}}),
        (422, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"class": "dog"}}),
        (400, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"topk": "2"}}),
        (400, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"top_k": ["2", "2"]}}),
        (400, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"model": "x" * 2000}}),
        (400, "/predict", {"json": {"image": "aaaa", "images": ["aaaa"]}}),
        (400, "/predict", {"json": {"image": "aaaa", "size": 3}}),
        (400, "/predict", {"json": {"top_k": 3}}),
        (404, "/predict", {"files": {"a": ("a", encoded_image())}, "data": {"model": "other"}}),
    ],
)
def test_unknown_and_contradicting_options_are_refused(served: Running, status, path, sent):
    headers = RAW if "content" in sent else {}
    answer = served.client.post(path, headers=headers, **sent)
    assert answer.status_code == status, answer.text
    assert ErrorResponse.model_validate(answer.json()).status == status


def test_answers_have_the_types_of_the_schema(served: Running):
    for model in ("net", "finder"):
        path = f"/predict?model={model}&threshold=0"
        answer = served.client.post(path, content=encoded_image(200, 100), headers=RAW).json()
        typed = PredictResponse.model_validate(answer)
        assert typed.model_dump(by_alias=True, exclude_none=True, mode="json") == answer
    models = served.client.get("/models").json()
    assert [ServedModel.model_validate(each).model_dump() for each in models] == models


def test_schema_names_options_answers_and_forms_of_bodies(served: Running):
    schema = served.client.get("/openapi.json").json()
    predict = schema["paths"]["/predict"]["post"]
    assert [each["name"] for each in predict["parameters"]] == ["model", "top_k", "threshold"]
    content = predict["requestBody"]["content"]
    for form in ("multipart/form-data", "application/json"):
        fields = content[form]["schema"]["properties"]
        assert set(fields) == {"images", "model", "top_k", "threshold"}
    answer = predict["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/PredictResponse"}
    error = predict["responses"]["422"]["content"]["application/json"]["schema"]
    assert error == {"$ref": "#/components/schemas/ErrorResponse"}


def test_examples_of_the_schema_are_answers(served: Running):
    schema = served.client.get("/openapi.json").json()
    content = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]
    examples = [each["value"] for each in content["application/json"]["examples"].values()]
    assert {each["task"] for each in examples} == {"classify", "detect", "segment"}
    for example in examples:
        typed = PredictResponse.model_validate(example)
        assert typed.model_dump(by_alias=True, exclude_none=True, mode="json") == example
    for method, path, kind in (
        ("get", "/healthz", Alive),
        ("get", "/readyz", Ready),
        ("post", "/admin/reload", Reloaded),
    ):
        answer = served.client.request(method, path)
        kind.model_validate(answer.json())
        typed = schema["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        assert typed["schema"] == {"$ref": f"#/components/schemas/{kind.__name__}"}


def test_options_of_checkpoints_do_not_affect_artifacts(tmp_path: Path, capsys):
    net = save_classifier(tmp_path / "net.safetensors")
    artifact = tmp_path / "net.pt2"
    assert main(["export", net, "--to", "torch", "--out", str(artifact)]) == 0
    with running(
        f"net={net}", f"exported={artifact}", backend="torch", precision="float32"
    ) as both:
        engines = [each["engine"] for each in both.client.get("/models").json()]
    assert [each.split()[:2] for each in engines] == [["torch", "float32,"], ["torch", "float32"]]
    assert main(["serve", str(artifact), "--backend", "onnx", "--port", "0"]) == 2
    assert "--backend" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
def test_head_answers_as_get_without_a_body(served: Running, path):
    answer = served.client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""


def test_pages_of_an_allowed_origin_may_read_answers(served: Running):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST", "authorization": ""}
    asked["access-control-request-headers"] = "authorization"
    preflight = served.client.options("/predict", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    answer = served.client.get("/models", headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    refused = served.client.get("/models", headers={"origin": ORIGIN, "authorization": ""})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    other = served.client.get("/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_an_origin_that_no_browser_sends_is_refused(capsys):
    assert main(["serve", "x", "--cors-origin", "app.example/path", "--port", "0"]) == 2
    assert "--cors-origin" in capsys.readouterr().err


@pytest.mark.parametrize("start", [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"not an image"])
def test_other_formats_are_answered_with_those_accepted(served: Running, start):
    answer = served.client.post("/predict", content=start, headers=RAW)
    assert answer.status_code == 422
    assert "JPEG, " in answer.json()["error"]


def test_a_preview_is_the_image_in_a_format_of_browsers(served: Running):
    tiff = encoded_image(900, 300, form="TIFF")
    answer = served.client.post("/preview", content=tiff, headers=RAW)
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("PNG", (640, 213))
    small = encoded_image(60, 30, form="TIFF")
    answer = served.client.post("/preview", content=small, headers=RAW)
    shown = decode_whole(answer.content, "shown")
    assert (shown == decode_whole(small, "small")).all()


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path):
    path = tmp_path / "lr=0.1.safetensors"
    path.touch()
    assert Source.parse(str(path)) == Source("lr-0.1", None, str(path))
    assert Source.parse(f"net={path}") == Source("net", None, str(path))
