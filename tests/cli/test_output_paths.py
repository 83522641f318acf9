"""Results are written to local paths: a URL is refused before anything is computed."""

from pathlib import Path

import pytest
from bulk_runs import save_digits

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.utils.files.local_paths import output_path

URL = "s3://bucket/results"


@pytest.mark.parametrize(
    "words",
    [
        f"train digits --out {URL}",
        f"evaluate RUN --out {URL}",
        f"predict RUN image.png --explain {URL}",
        f"predict RUN --data images --out {URL}",
        f"features RUN images --out {URL}.parquet",
        f"recompute-norm RUN --out {URL}",
        f"push RUN --to {URL}",
        f"export RUN --out {URL}.onnx",
        f"study depth --models cifar-plain8 --data digits --budget 1ep --out {URL}",
        f"study gradients cifar-plain8 --out {URL}",
        f"study responses RUN --out {URL}",
        f"tune digits --trials 1 --out {URL}",
        f"folds digits --out {URL}",
        f"data pack images --out {URL}.pack",
        f"data check images --out {URL}",
        f"info cifar-resnet20 --diagram {URL}.svg",
    ],
)
def test_a_url_is_refused(
    words: str,
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_digits(tmp_path / "images")
    assert main(words.replace("RUN", str(digits_run)).split()) == 2
    assert "bucket" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_url_is_refused_in_python(digits_run: Path, tmp_path: Path) -> None:
    for call in (
        lambda: resnets.train("digits", out=URL),
        lambda: resnets.evaluate(digits_run, out=URL),
        lambda: resnets.load(digits_run).save(URL),
    ):
        with pytest.raises(ConfigError, match="bucket"):
            call()
    assert not Path("s3:").exists()


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_path("~/results") == tmp_path / "results"
    assert output_path(Path("C:", "results")).name == "results"  # a drive
