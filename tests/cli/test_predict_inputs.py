"""`resnets predict` of URLs and standard input, and of those that cannot be read."""

import functools
import http.server
import io
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from bulk_runs import DIGITS
from PIL import Image

from resnets import predict
from resnets.cli.main import main
from resnets.config import ConfigError


@pytest.fixture
def site(tmp_path: Path):
    """URL of a web server with digit.png."""
    (tmp_path / "digit.png").write_bytes(DIGITS[0][0])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_url_and_standard_input_give_what_the_file_gives(
    digits_run, site, tmp_path, capsys, monkeypatch
):
    piped = SimpleNamespace(buffer=io.BytesIO(DIGITS[0][0]), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", piped)
    file, url = str(tmp_path / "digit.png"), f"{site}/digit.png?size=full"
    words = ["predict", str(digits_run), file, url, "-", "--json", "--backend", "torch"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["path"] for each in found] == [file, url, "-"]
    assert found[0]["predictions"] == found[1]["predictions"] == found[2]["predictions"]


def test_what_cannot_be_read_is_named_and_the_rest_predicted(digits_run, site, tmp_path, capsys):
    (tmp_path / "page.html").write_text("<p>no image")
    urls = [f"{site}/{name}" for name in ("digit.png", "missing.png", "page.html")]
    words = ["predict", str(digits_run), *urls, "--csv", "--backend", "torch"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [urls[0], urls[2]]
    assert urls[1] in err
    assert urls[2] in err


def test_a_terminal_is_not_an_image(digits_run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert main(["predict", str(digits_run), "-"]) == 2


@pytest.mark.parametrize("url", ["ftp://example.org/cat.jpg", "file:///tmp/cat.jpg", "s3://b/cat"])
def test_urls_that_are_not_read_are_refused_with_those_that_are(digits_run, url, capsys):
    assert main(["predict", str(digits_run), url]) == 2
    err = capsys.readouterr().err
    assert url in err
    assert "http" in err.replace(url, "")
    with pytest.raises(ConfigError, match="files and folders"):
        predict(digits_run, url)


def test_unread_pages_of_an_image_are_reported(digits_run, site, tmp_path, capsys, caplog):
    first, second = (Image.open(io.BytesIO(data)) for data, _ in DIGITS[:2])
    for name in ("pages.tif", "site.gif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
    words = [str(tmp_path / "pages.tif"), f"{site}/site.gif", "--json", "--backend", "torch"]
    assert main(["predict", str(digits_run), *words[1:]]) == 0
    assert f"{site}/site.gif with 2" in capsys.readouterr().err
    predict(digits_run, [words[0]])
    assert "pages.tif with 2" in caplog.text
