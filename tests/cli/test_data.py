"""`resnets data pack` at the command line: what it prints, its exit codes, and training on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes, and the working folder beside it."""
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "shapes" / ("round", "square")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return Path("shapes")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["data", *words])
    return code, *capsys.readouterr()


def test_pack_and_verify(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "pack", "shapes", "--size", "32")
    assert code == 0
    assert err.startswith("data:     shapes: 2 classes")
    assert out.splitlines() == [
        "wrote shapes-32.pack: 24 train, 0.1 MB",
        "to train on it: resnets train RECIPE --data shapes-32.pack",
    ]
    code, out, err = said(capsys, "pack", "--verify", "shapes-32.pack")
    assert (code, err) == (0, "")
    assert out.startswith("shapes-32.pack: 24 images, ")


def test_a_run_on_a_packed_set(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pack", "shapes", "--out", "s.pack"]) == 0
    words = ["train", "scratch", "--model", "cifar-resnet8", "--data", "s.pack", "--device", "cpu"]
    sizes = ["data.size=16", "data.resize=20", "batch_size=4", "compile=off"]
    options = [word for size in sizes for word in ("--set", size)]
    assert main([*words, *options, "--iterations", "2", "--out", "run"]) == 0
    err = capsys.readouterr().err
    assert "cifar-resnet8 on shapes packed at 400 px: " in err
    assert main(["evaluate", "run", "--views", "ten-crop"]) == 0
    assert "shapes packed at 400 px, test share (seed 0)" in capsys.readouterr().out


def test_unreadable_images_are_named_and_excluded(
    shapes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (shapes / "round" / "00.png").write_bytes(b"")
    (shapes / "square" / "01.png").write_bytes(b"GIF89a")
    code, out, err = said(capsys, "pack", "shapes", "--max-unreadable", "0.1")
    assert code == 1
    assert "wrote shapes-400.pack: 22 train, 0.1 MB" in out
    assert err.splitlines()[-1].startswith("resnets data pack: skipped 2 ")
    named = [message.split(": ")[0] for message in caplog.messages]
    assert named == ["shapes/round/00.png", "shapes/square/01.png"]
    Path("shapes-400.pack").unlink()
    code, out, err = said(capsys, "pack", "shapes")
    assert (code, out) == (1, "")
    assert "2 of them cannot be read, data.max_unreadable = 0.01 allows 1" in err
    assert not list(Path().glob("*.pack*"))
    Path("list.txt").write_text("round/00.png\tempty\nsquare/01.png\n")
    code, out, err = said(capsys, "pack", "shapes", "--quarantine", "list.txt")
    assert code == 0
    assert "cannot be read" not in err
    assert "22 train" in out


def test_verify_names_damaged_images(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "pack", "shapes", "--out", "s.pack")
    data = bytearray(Path("s.pack").read_bytes())
    data[2000] ^= 255
    Path("s.pack").write_bytes(data)
    code, out, err = said(capsys, "pack", "s.pack", "--verify")
    assert (code, out) == (1, "")
    damaged, summary = err.splitlines()
    assert damaged.startswith("resnets data pack: s.pack:round/00.png: ")
    assert summary.startswith("resnets data pack: s.pack: 1 of 24 images ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["shapes", "--size", "0"], 2, "--size 0"),
        (["shapes", "--out", "set.tar"], 2, "--out set.tar: "),
        (["shapes", "--out", "no/set.pack"], 2, "--out no/set.pack: no such folder no"),
        (["shapes", "--out", "here.pack"], 2, "--out here.pack: already exists"),
        (["shapes", "--max-unreadable", "1.5"], 2, "data.max_unreadable: 1.5 must be in [0, 1)"),
        (["shapes", "--quarantine", "none.txt"], 2, "none.txt cannot be read"),
        (["nowhere"], 1, "nowhere: no such folder or file"),
        (["shapes", "--verify"], 1, "shapes: no such file; make it with `resnets data pack`"),
        (["note.txt", "--verify"], 1, "note.txt: not a packed data set"),
    ],
)
def test_bad_use_is_one_line(
    shapes: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    Path("here.pack").write_text("taken")
    Path("note.txt").write_text("nothing")
    found, out, err = said(capsys, "pack", *words)
    assert (found, out) == (code, "")
    *summary, error = err.splitlines()  # the summary is printed once per process
    assert error.startswith("resnets data pack: ")
    assert message in error
    assert not any(line.startswith("resnets data pack: ") for line in summary)
    assert Path("here.pack").read_text() == "taken"


def test_help_shows_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    assert "pack" in capsys.readouterr().out
    assert main(["data"]) == 2


def test_check_takes_a_packed_set(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its images keep the names they had, which is nothing to complain of."""
    said(capsys, "pack", "shapes", "--out", "s.pack")
    code, _, _ = said(capsys, "check", "s.pack", "--out", "checked")
    assert code == 0
    assert Path("checked/files.csv").read_text().count("\n") == 1


def test_check_refuses_a_negative_size(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "shapes", "--tiny", "-1"]) == 2
    assert "--tiny -1" in capsys.readouterr().err
