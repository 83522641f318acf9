"""Names of any kind in figures: nothing is read as markup, cut short or lost."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw

from resnets.cli.main import main
from resnets.evaluate.figures import fonts
from resnets.evaluate.figures.fonts import TextRenderer, escape_label, figure_fonts
from resnets.evaluate.figures.image_grid import Caption, Tile, save_image_grid

NAMES = (r"$\frac$", "$1 & $5_b", "_private", "a^b%", "猫, قطة", "\x1b]0;t\x07", b"caf\xe9")


@pytest.fixture
def fresh_fonts(monkeypatch):
    """What was found before is forgotten, and again afterwards."""

    def forget() -> None:
        fonts._system_fonts.cache_clear()
        fonts._find_font.cache_clear()
        fonts.REPORTED.clear()

    forget()
    yield monkeypatch
    forget()


def make_font(path: Path, letter: str) -> None:
    """A font whose only letter is a filled square."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def square():
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for point in ((0, 900), (900, 900), (900, 0)):
            pen.lineTo(point)
        pen.closePath()
        return pen.glyph()

    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord(letter): "one"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": square()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "one": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Tests Own", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def drawn(text: str) -> np.ndarray:
    """Pixels of `text` in matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_fonts([text]):
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, escape_label(text))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()


def test_a_letter_is_drawn_in_the_font_that_has_it(tmp_path, fresh_fonts, caplog) -> None:
    letter = "\u13a0"  # Cherokee, which matplotlib's own font lacks
    fresh_fonts.setattr(font_manager, "findSystemFonts", list)
    with caplog.at_level(logging.WARNING, "resnets"):
        box = drawn(letter)
        drawn(letter)
    assert len([one for one in caplog.messages if "U+13A0" in one and "install" in one]) == 1
    pen = ImageDraw.Draw(page := Image.new("L", (40, 40)))
    TextRenderer(20).draw(pen, (2, 2), letter, "white")
    fresh_fonts.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "own.ttf")])
    make_font(tmp_path / "own.ttf", letter)
    fonts._system_fonts.cache_clear()
    fonts._find_font.cache_clear()
    assert FT2Font(str(tmp_path / "own.ttf")).family_name == "Tests Own"
    assert (drawn(letter) != box).any()
    other = Image.new("L", (40, 40))
    TextRenderer(20).draw(ImageDraw.Draw(other), (2, 2), letter, "white")
    assert np.asarray(other).sum() > 1.2 * np.asarray(page).sum()  # filled, where a box is hollow


def test_long_names_are_whole_below_their_tiles(tmp_path: Path) -> None:
    def height(name: str) -> int:
        said = Caption(name), Caption("b"), Caption("c")
        save_image_grid(
            "t", "p", [Tile(Image.new("RGB", (100, 100)), said)], 100, tmp_path / "x.png"
        )
        with Image.open(tmp_path / "x.png") as page:
            return page.height

    lines = [height("word " * count) for count in (1, 20, 40)]
    assert lines[0] < lines[1] < lines[2]
    assert height("w" * 200) > lines[0]


@pytest.mark.ci
def test_a_set_of_odd_names_is_trained_resumed_and_evaluated(tmp_path, capfd) -> None:
    """Without a report the run failed, and each resume again."""
    root, rng = os.fsencode(tmp_path / "set"), np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        folder = root + b"/" + os.fsencode(name)
        os.makedirs(folder)
        for place in range(6):
            pixels = rng.integers(0, 99, (16, 16, 3)) + 20 * number
            file = folder + b"/\xff\r\n\x1b[2J%d.png" % place
            with open(file, "wb") as stream:
                Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    with open(folder + b"/br\xf6ken\x1b[2J.png", "wb") as stream:
        stream.write(b"nothing")
    run, out = str(tmp_path / "run"), str(tmp_path / "evaluated")
    options = ["--set", "data.size=16", "--set", "data.max_unreadable=0.5", "--device", "cpu"]
    begin = ["train", "digits", "--data", os.fsdecode(root), "--model", "cifar-resnet8"]
    assert main([*begin, "--iterations", "2", "--out", run, *options]) == 0
    (tmp_path / "run" / "report.html").unlink()
    assert main(["train", "--resume", run, "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    code = main(["evaluate", run, "--split", "train", "--out", out, "--device", "cpu"])
    assert code in (0, 1)  # 1: a file was left out
    for name in ("confusion.png", "errors.png"):
        with Image.open(Path(out, name)) as page:
            assert min(page.size) > 200
    assert Path(out, "evaluation.json").read_text(encoding="utf-8")
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err


def test_paths_that_are_not_utf8(tmp_path, capfd) -> None:
    """A recipe cannot name such a set, nor be a run's folder one; all else may be called so."""
    for name in ("a", "b"):
        folder = os.fsencode(tmp_path) + b"/s\xe9t/" + name.encode()
        os.makedirs(folder)
        for number in range(3):
            pixels = np.full((16, 16, 3), 40 * number, np.uint8)
            with open(folder + b"/%d.png" % number, "wb") as stream:
                Image.fromarray(pixels).save(stream, "PNG")
    odd, plain = os.fsdecode(os.fsencode(tmp_path) + b"/s\xe9t"), str(tmp_path / "plain")
    shutil.copytree(odd, plain)
    begin = ["train", "digits", "--model", "cifar-resnet8", "--iterations", "2", "--device", "cpu"]
    assert main([*begin, "--data", odd, "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
    assert "UTF-8" in capfd.readouterr().err
    elsewhere = os.fsdecode(os.fsencode(tmp_path) + b"/r\xfen")
    assert main([*begin, "--data", plain, "--out", elsewhere]) == 2
    assert not os.path.exists(elsewhere)
    run = str(tmp_path / "run")
    assert main([*begin, "--data", plain, "--out", run]) == 0
    assert main(["evaluate", run, "--data", odd, "--out", elsewhere, "--device", "cpu"]) == 0
    table = str(tmp_path / "f.parquet")
    assert main(["features", run, odd, "--out", table, "--device", "cpu"]) == 0
    paths = pytest.importorskip("pyarrow.parquet").read_table(table)["path"].to_pylist()
    assert len(paths) == 6
    assert all("s\\udce9t" in path for path in paths)
