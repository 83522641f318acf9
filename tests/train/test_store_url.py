"""Checkpoints at a URL: written, read, and what happens when it is not reachable."""

import json
import os
import uuid
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import torch
from checkpoint_runs import assert_is, files, payload, resume_from, saved
from fsspec.implementations.memory import MemoryFileSystem

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, Recipe, replace_fields, to_toml
from resnets.recipes import recipe
from resnets.serve.models import fingerprint
from resnets.train.run import run_training
from resnets.weights.checkpoint import store
from resnets.weights.checkpoint.find import SUFFIXES, find_checkpoint, open_checkpoint, read_task
from resnets.weights.checkpoint.format import BEST, LAST, step_name
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.checkpoint.store import UrlStore, local_path, remote_url
from resnets.weights.errors import CheckpointError
from resnets.weights.read import READERS


class Shaky(MemoryFileSystem):
    """Memory whose next `failures` uploads, copies and downloads meet a broken network."""

    protocol = "shaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("shaky://", "memory://"))

    def _fail(self):
        if Shaky.failures:
            Shaky.failures -= 1
            raise ConnectionError("connection reset by peer")

    def put_file(self, *words, **named):
        self._fail()
        return super().put_file(*words, **named)

    def get_file(self, *words, **named):
        self._fail()
        return super().get_file(*words, **named)


fsspec.register_implementation("shaky", Shaky, clobber=True)


@pytest.fixture
def url(monkeypatch):
    """A place of this test alone, tried again at once."""
    monkeypatch.setattr(store, "WAITS", (0, 0, 0))
    monkeypatch.setattr(Shaky, "failures", 0)
    return f"shaky://bucket/{uuid.uuid4().hex}"


def short(url, **changes):
    fields = {"duration": "12it", "checkpoint_every": "4it", "eval.every": "4it"}
    fields |= {"precision": "float32", "checkpoint_url": url}
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


def there(url):
    return [each for each in UrlStore(url).list_files() if each != "recipe.toml"]


@pytest.mark.parametrize("whole", [True, False], ids=["object-store", "moved"])
def test_checkpoints_are_stored_at_the_url_instead_of_the_folder(url, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(store, "ATOMIC_PROTOCOLS", {"shaky"} if whole else set())
    plan, out = Recipe(checkpoint_url=url), tmp_path / "run"
    saved(out, 10, 20, 30, recipe=plan)
    assert files(out) == []
    assert there(f"{url}/run") == [LAST, step_name(20)]
    assert_is(resume_from(out, plan).latest(), 30)
    manager = resume_from(out, plan)
    manager.save(LAST, payload(40), 40)
    manager.save(BEST, payload(40), 40)
    assert there(f"{url}/run") == [BEST, LAST, step_name(30)]
    assert manager.last_good() == f"last good checkpoint: {url}/run/{LAST} (step 40)"


def test_a_damaged_checkpoint_is_replaced_by_an_older_one_and_both_are_named(url, tmp_path, caplog):
    plan = Recipe(checkpoint_url=url)
    saved(tmp_path / "run", 10, 20, recipe=plan)
    place = fsspec.filesystem("shaky")
    key = f"{url}/run/{LAST}"
    place.pipe_file(key, place.cat_file(key)[:-3])
    assert_is(CheckpointManager(tmp_path / "run", plan).latest(), 10)
    assert f"{url}/run/{LAST}: truncated" in caplog.text
    assert f"resuming from {url}/run/{step_name(10)} instead" in caplog.text


def test_a_transient_error_is_retried(url, tmp_path):
    plan, out = Recipe(checkpoint_url=url), tmp_path / "run"
    Shaky.failures = 3
    saved(out, 10, 20, recipe=plan)
    assert Shaky.failures == 0
    # An older checkpoint is not used only because the newest cannot be read at the moment.
    Shaky.failures = 4
    with pytest.raises(CheckpointError, match="4 attempts"):
        CheckpointManager(out, plan).latest()
    Shaky.failures = 3
    assert_is(CheckpointManager(out, plan).latest(), 20)


def test_checkpoints_stay_in_the_folder_while_the_store_is_unreachable(url, tmp_path, caplog):
    plan, out = Recipe(checkpoint_url=url), tmp_path / "run"
    manager = saved(out, 10, recipe=plan)
    Shaky.failures = 8
    manager.save(BEST, payload(20), 20)
    manager.save(LAST, payload(20), 20)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "cannot write the checkpoint of step 20 (4 attempts: connection reset" in caplog.text
    assert f"it is kept in {out / 'checkpoints' / LAST}" not in warnings[0].message
    assert "training continues" in caplog.text
    assert files(out) == [BEST, LAST]
    assert there(f"{url}/run") == [LAST]
    # A process that goes on now takes what waits, and a reader of the run its best.
    assert_is(CheckpointManager(out, plan).latest(), 20)
    manager.save(LAST, payload(30), 30)
    assert files(out) == []
    assert there(f"{url}/run") == [BEST, LAST, step_name(10)]
    assert_is(open_checkpoint(f"{url}/run/{BEST}"), 20)


def test_pending_checkpoints_are_skipped_if_another_machine_continued(url, tmp_path):
    """It came to step 60 while steps 20 waited here: 60 it is, and 20 never takes its place."""
    plan, out = Recipe(checkpoint_url=url), tmp_path / "here" / "run"
    manager = saved(out, 10, recipe=plan)
    Shaky.failures = 8
    manager.save(BEST, payload(20), 20)
    manager.save(LAST, payload(20), 20)
    other = resume_from(tmp_path / "there" / "run", plan)
    other.save(BEST, payload(50), 50)
    for step in (50, 60):
        other.save(LAST, payload(step), step)
    assert files(out) == [BEST, LAST]
    manager = resume_from(out, plan)
    assert_is(manager.latest(), 60)
    assert manager.last_good() == f"last good checkpoint: {url}/run/{LAST} (step 60)"
    manager.upload_pending(final=True)
    assert files(out) == []
    assert_is(open_checkpoint(f"{url}/run/{LAST}"), 60)
    assert_is(open_checkpoint(f"{url}/run/{BEST}"), 50)


def test_the_last_checkpoint_of_a_run_must_be_uploaded(url, tmp_path):
    plan, out = Recipe(checkpoint_url=url), tmp_path / "run"
    manager = saved(out, 10, recipe=plan)
    Shaky.failures = 4
    with pytest.raises(CheckpointError, match=rf"of step 20 .*it is kept in {out}.*--resume"):
        manager.save(LAST, payload(20), 20, final=True)
    # Another process goes on from it, and sends it.
    manager = resume_from(out, plan)
    manager.upload_pending(final=True)
    assert files(out) == []
    assert there(f"{url}/run") == [LAST, step_name(10)]
    assert_is(CheckpointManager(out, plan).latest(), 20)


@pytest.mark.ci
def test_another_machine_resumes_to_the_same_result(url, tmp_path, caplog, capsys, monkeypatch):
    """It has nothing but the URL, where the last checkpoint got lost."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "here" / "far"
    result = run_training(short(url), out, device="cpu", quiet=True)
    assert result["checkpoint"] == BEST
    assert os.listdir(out / "checkpoints") == []
    assert find_checkpoint(out).name == BEST
    whole = open_checkpoint(f"{url}/far/{LAST}")
    UrlStore(f"{url}/far").remove(LAST)
    assert main(["train", "--resume", f"{url}/far", "--device", "cpu"]) == 0
    lost = f"{url}/far/{LAST}: no such checkpoint; resuming from {url}/far/{step_name(8)} instead"
    assert lost in caplog.text
    output = capsys.readouterr().err
    assert "runs/far: cifar-resnet8 on digits" in output
    assert "resuming at step 8" in output
    found = open_checkpoint(f"{url}/far/{LAST}")
    assert found.meta["step"] == whole.meta["step"] == 12
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(found.tensors[name], whole.tensors[name]) for name in whole.tensors)
    for where in (f"{url}/far", f"{url}/far/{LAST}", "runs/far", out):
        assert read_task(where) == "classify"
    assert main(["evaluate", "runs/far", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["top1_error"] == result["test"]["top1_error"]


def test_an_unrelated_run_of_the_same_name_is_not_resumed(url, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_training(short(url, duration="4it"), tmp_path / "there" / "run", device="cpu", quiet=True)
    resume = ["train", "--resume", f"{url}/run", "--device", "cpu"]
    for theirs in (None, f"{url}/elsewhere"):
        plan = to_toml(short(theirs))
        Path("runs/run").mkdir(parents=True, exist_ok=True)
        Path("runs/run/recipe.toml").write_text(plan)
        assert main(resume) == 2
        output = capsys.readouterr().err.strip()
        assert f"--resume {url}/run: runs/run contains another run; move" in output
        assert os.listdir("runs/run") == ["recipe.toml"]
    Path("runs/run/recipe.toml").write_text(to_toml(short(f"{url}/", duration="4it")))
    assert main(resume) == 0


def test_a_run_may_have_a_dot_in_its_name(url, tmp_path):
    saved(tmp_path / "v1.5", 10, recipe=Recipe(checkpoint_url=url))
    assert_is(open_checkpoint(f"{url}/v1.5"), 10)
    assert READERS.keys() <= SUFFIXES


def test_urls_are_accepted_wherever_checkpoints_are(url, tmp_path):
    run_training(short(url), tmp_path / "run", device="cpu", quiet=True)
    best = f"{url}/run/{BEST}"
    stored = open_checkpoint(best).group("model")
    for net in (
        resnets.load(best),
        resnets.load(Path(best)),  # as the options of some commands are
        resnets.create_model("cifar-resnet8", weights=best, num_classes=10, in_channels=1),
    ):
        assert torch.equal(net.state_dict()["head.weight"], stored["head.weight"])
    digests = {fingerprint(each) for each in (best, f"{url}/run", str(find_checkpoint(best)))}
    assert len(digests) == 1
    assert fingerprint(f"{url}/run/{LAST}") not in digests


def test_resume_if_exists_finds_a_run_of_another_machine(url, tmp_path, capsys):
    words = ["train", "digits", "--model", "cifar-resnet8", "--iterations", "4", "--device", "cpu"]
    words += ["--set", f"checkpoint_url={url}", "--go-on", "--out"]
    assert main([*words, str(tmp_path / "a" / "run")]) == 0
    assert main([*words, str(tmp_path / "b" / "run")]) == 0
    assert "resuming at step 4" in capsys.readouterr().err
    assert main([*[each for each in words if each != "--go-on"], str(tmp_path / "c" / "run")]) == 2
    assert "has checkpoints of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("shaky://bucket/nothing", CheckpointError, "nothing: no checkpoint"),
        ("shaky://bucket/nothing/last.safetensors", CheckpointError, "cannot be read"),
        ("unheard://bucket/run", ConfigError, "Protocol not known: unheard"),
    ],
)
def test_missing_checkpoints_are_reported(where, error, message):
    with pytest.raises(error, match=message):
        find_checkpoint(where)


def test_urls_and_paths_are_distinguished(tmp_path):
    assert remote_url("s3://bucket/run/last.safetensors") == "s3://bucket/run/last.safetensors"
    assert remote_url(local_path("s3://bucket/run")) == "s3://bucket/run"  # a Path has lost a slash
    for path in (tmp_path, "runs/a", "hub:org/name", "timm:resnet50", "C:/runs", "a:b"):
        assert remote_url(path) is None
    assert local_path(f"file://{tmp_path}") == tmp_path
    manager = saved(tmp_path / "run", 10, recipe=Recipe(checkpoint_url=f"file://{tmp_path}/far"))
    assert os.listdir(tmp_path / "far" / "run") == [LAST]
    assert manager.path == str(tmp_path / "far" / "run" / LAST)


def test_a_missing_driver_names_the_extra(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"pip install 'resnets\[s3\]'"):
        UrlStore("s3://bucket/run")


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a real S3 server on this machine."""
    for package in ("s3fs", "flask", "flask_cors"):
        pytest.importorskip(package)
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("resnets-test")
        yield "s3://resnets-test/runs"
        server.stop()


@pytest.mark.ci
def test_a_run_on_s3(bucket, tmp_path, capsys):
    out = tmp_path / "run"
    run_training(short(bucket), out, device="cpu", quiet=True)
    assert there(f"{bucket}/run") == [BEST, LAST, step_name(8)]
    last = f"{bucket}/run/{LAST}"
    assert open_checkpoint(last).meta["step"] == 12
    assert main(["evaluate", last, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 359
    target = tmp_path / "net.pt2"
    assert main(["export", last, "--to", "torch", "--out", str(target)]) == 0
    assert target.is_file()
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 0
    fsspec.filesystem("s3").rm(f"{bucket}/run/{LAST}")
    assert CheckpointManager(out, short(bucket)).latest().meta["step"] == 8


def test_a_missing_bucket_is_reported_before_training(bucket, tmp_path):
    plan = short("s3://resnets-no-such-bucket/runs")
    with pytest.raises(CheckpointError, match="The specified bucket does not exist"):
        run_training(plan, tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
