"""`resnets export --to web`: the page computes what ONNX Runtime does, and needs nothing else."""

import hashlib
import json
import shutil

import pytest
from browser import CHROMIUM

from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.export import web
from resnets.weights.load import load_classifier


def test_another_runtime_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "cache_folder", lambda: tmp_path)
    package = tmp_path / "npm" / f"{web.RUNTIME}-{web.VERSION}.tgz"
    package.parent.mkdir()
    package.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="SHA-512"):
        web.fetch_runtime(print)


def test_an_existing_folder_and_a_missing_browser_are_refused(digits_run, tmp_path, monkeypatch):
    model = load_classifier(str(digits_run))
    with pytest.raises(ConfigError, match="exists"):
        web.export_web(model, "float32", tmp_path)
    monkeypatch.setattr(web, "CHROMIUM", ())
    with pytest.raises(ConfigError, match="browser"):
        web.export_web(model, "float32", tmp_path / "page")


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and shutil.which("npm")), reason="needs Chromium and npm")
def test_the_page_gives_the_classes_of_the_artifact(digits_run, tmp_path):
    pytest.importorskip("onnxscript")
    out = tmp_path / "page"
    code = main(["export", str(digits_run), "--to", "web", "--out", str(out)])
    if code == 2 and not (web.cache_folder() / "npm").is_dir():
        pytest.skip("npm cannot fetch the runtime here")
    assert code == 0
    manifest = json.loads((out / "model.onnx.json").read_text())
    assert manifest["web"]["same_class"] == manifest["web"]["images"] == 12
    digest = hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()
    assert manifest["sha256"] == {"model.onnx": digest}
    page = "".join((out / name).read_text() for name in ("index.html", "page.js", "local.js"))
    assert "//cdn" not in page
    assert {each.name for each in out.iterdir()} >= {*web.RUNTIME_FILES, *web.PAGE_FILES}
