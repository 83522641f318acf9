"""Files of served models that are rewritten in place while the server runs."""

import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import httpx
import pytest
import torch
from serving import Running, encoded_image, running, save_classifier

from resnets.cli.main import main
from resnets.serve.models import fingerprint
from resnets.serve.registry import Registry
from resnets.weights.checkpoint import store
from resnets.weights.checkpoint.format import read_checkpoint
from resnets.weights.errors import CheckpointError

READ_WHILE_IT_IS_CUT = """
import sys
from pathlib import Path
from resnets.weights.checkpoint.format import read_checkpoint
path = Path(sys.argv[1])
tensors = read_checkpoint(path).tensors
path.write_bytes(b"cut")  # in place: the file that was read is this one
print(sum(float(each.double().sum()) for each in tensors.values()))
"""


def ask(served: Running, route: str = "/predict") -> httpx.Response:
    return served.client.post(route, content=encoded_image(), headers={"content-type": "image/png"})


def test_an_explanation_is_never_that_of_another_model(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    with running(f"net={path}", token="t") as served:
        first, content = ask(served).json()["predictions"], path.read_bytes()
        save_classifier(path, seed=7)
        refused = ask(served, "/explain")
        assert (refused.status_code, "reload" in refused.json()["error"]) == (409, True)
        assert ask(served).json()["predictions"] == first
        path.write_bytes(content)
        assert ask(served, "/explain").status_code == 200
        save_classifier(path, seed=7)
        served.client.post("/admin/reload")
        assert ask(served).json()["predictions"] != first
        assert ask(served, "/explain").status_code == 200


def test_no_explanation_while_the_file_cannot_be_read(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    with running(f"net={path}") as served:
        content = path.read_bytes()
        for spoil in (lambda: path.write_bytes(content[:-9]), path.unlink, path.mkdir):
            spoil()
            assert ask(served, "/explain").status_code == 409
        path.rmdir()
        path.write_bytes(content)
        assert ask(served, "/explain").status_code == 200


def test_a_model_that_cannot_be_reloaded_does_not_keep_the_others(tmp_path: Path, monkeypatch):
    first, second = (Path(save_classifier(tmp_path / f"{name}.safetensors")) for name in "ab")
    renewed = Registry._load_if_changed

    def out_of_memory(self, source, old):
        if source.name == "a":
            raise MemoryError("while a model is read")
        return renewed(self, source, old)

    with running(f"a={first}", f"b={second}", token="t") as served:
        monkeypatch.setattr(Registry, "_load_if_changed", out_of_memory)
        save_classifier(second, seed=7)
        kept, now = served.client.post("/admin/reload").json()["models"].values()
        assert kept.startswith("kept")
        assert now.startswith("now b@")


def test_a_run_whose_weights_lie_elsewhere_is_known_by_them(tmp_path: Path):
    far, run = tmp_path / "far" / "run" / "last.safetensors", tmp_path / "run"
    save_classifier(far)
    run.mkdir()
    (run / "recipe.toml").write_text(f'checkpoint_url = "file://{tmp_path}/far"\n')
    first = fingerprint(str(run))
    assert first == fingerprint(str(far)) == fingerprint(f"file://{far}")
    (run / "metrics.jsonl").write_text("{}\n")
    assert fingerprint(str(run)) == first
    save_classifier(far, seed=7)
    assert fingerprint(str(run)) == fingerprint(f"file://{far}") != first


def test_reloads_from_a_url_leave_one_copy(tmp_path: Path):
    there, url = fsspec.filesystem("memory"), "memory://served/run/last.safetensors"
    there.pipe_file(url, Path(save_classifier(tmp_path / "0")).read_bytes())
    with running(f"net={url}", token="t") as served:
        for seed in (1, 2):
            there.pipe_file(url, Path(save_classifier(tmp_path / str(seed), seed)).read_bytes())
            (said,) = served.client.post("/admin/reload").json()["models"].values()
            assert said.startswith("now net@")
            assert ask(served, "/explain").status_code == 200
    assert (
        len(
            [
                path
                for path in store._download_folder().rglob("*/last.safetensors")
                if store.display_path(path) == url
            ]
        )
        == 1
    )


@pytest.mark.slow
def test_weights_that_are_rewritten_in_place_change_nothing_until_a_reload(tmp_path: Path, capsys):
    pytest.importorskip("openvino")
    net, out = save_classifier(tmp_path / "net.safetensors"), tmp_path / "net.xml"
    assert main(["export", net, "--to", "openvino", "--out", str(out)]) == 0
    capsys.readouterr()
    with running(f"net={out}", token="t", backend="auto") as served:
        first = ask(served).json()["predictions"]
        weights = out.with_suffix(".bin")
        size = weights.stat().st_size
        for content in (bytes(size), b""):  # a map of the file would give nonsense, then SIGBUS
            with weights.open("r+b") as file:
                file.truncate(0)
                file.write(content)
            assert ask(served).json()["predictions"] == first
        assert next(iter(served.client.post("/admin/reload").json()["models"].values())).startswith(
            "kept: "
        )
        assert ask(served).json()["predictions"] == first
        assert "no gradients" in ask(served, "/explain").json()["error"]


def test_tensors_survive_that_their_file_is_cut(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    expected = sum(float(each.double().sum()) for each in read_checkpoint(path).tensors.values())
    command = [sys.executable, "-c", READ_WHILE_IT_IS_CUT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert float(done.stdout) == expected


def test_reading_while_it_is_rewritten_is_whole_or_refused(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    contents = [path.read_bytes()]
    contents.append(Path(save_classifier(tmp_path / "other.safetensors", seed=1)).read_bytes())
    known = [read_checkpoint(path).tensors, read_checkpoint(tmp_path / "other.safetensors").tensors]
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for content in contents:
                path.write_bytes(content)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(100):
            try:
                found = read_checkpoint(path).tensors
            except CheckpointError:
                continue
            assert any(all(torch.equal(found[k], v) for k, v in each.items()) for each in known)
    finally:
        stop.set()
        thread.join()
