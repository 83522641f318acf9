"""Names from files and folders: nothing that a terminal or a spreadsheet obeys, nothing lost."""

import csv
import io
import logging
import os
from pathlib import Path

import pytest
from bulk_runs import predict_here
from PIL import Image
from rich.table import Table

from resnets.cli.main import main
from resnets.utils.files.csv import CsvWriter, escape_formula, read_rows, unescape_formula
from resnets.utils.printable import UNSAFE, Console, escape, printable

NAMES = (
    "a.png",
    "\x1b[2J\x1b]0;title\x07.png",
    "one\rtwo\nthree\ttab.png",
    "\x9b31m C1.png",
    "right\u202eto left.png",
    os.fsdecode(b"caf\xe9.png"),
    "=HYPERLINK(1).png",
    "'=quoted",
    "''",
    '"',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "猫 قطة 😀 a\u200db",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printable(name: str) -> None:
    shown = printable(name)
    assert not UNSAFE.search(shown)
    assert shown.encode()
    if name.isprintable() or "猫" in name:
        assert shown == name


def test_all_output_is_escaped(capsys) -> None:
    nasty = "".join(NAMES).replace("[", "[red]")
    stream = io.StringIO()
    console, table = Console(file=stream, force_terminal=True, width=200), Table()
    table.add_column(nasty)
    table.add_row(nasty, escape(nasty))
    console.print(table)
    console.print(nasty, markup=False)
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
    handler = logging.StreamHandler(stream := io.StringIO())
    for name in ("resnets", "resnets.weights.checkpoint.manager", "resnets.serve"):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.warning("%s: cannot be read", nasty)
        log.removeHandler(handler)
    assert "cannot be read" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert main(["train", "digits", "--data", f"/no/such/{nasty}"]) != 0
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [*NAMES, "-1", "+1.5e-3", "'-1", "", "'"])
def test_cells_are_read_again_as_they_were(name: str) -> None:
    stream = io.StringIO(newline="")
    writer = CsvWriter(stream)
    writer.writerows([["path", "class", "share"], [name, name, -0.5], ["b", None, 1]])
    stream.seek(0)
    rows = list(read_rows(stream))
    readable = name.encode(errors="backslashreplace").decode()
    assert rows == [["path", "class", "share"], [readable, readable, "-0.5"], ["b", "", "1"]]
    stream.seek(0)
    plain = list(csv.reader(stream, strict=True))[1][0]  # as any other program reads it
    assert plain[:1] not in ("=", "+", "-", "@", "\t", "\r") or name in ("-1", "+1.5e-3")
    assert unescape_formula(escape_formula(name)) == readable


def test_odd_names_are_predicted_in_bulk_as_csv(tmp_path: Path, digits_run: Path) -> None:
    """A carriage return in a name made the run redo its shard without end."""
    folder = tmp_path / "set"
    folder.mkdir()
    names = ["=1.png", "a\rb.png", "a\nb.png", "\x1b[2J.png", os.fsdecode(b"\xe9.png"), "c,d.png"]
    for name in names:
        Image.new("RGB", (16, 16), "red").save(folder / name, "PNG")
    (folder / "bro\x1bken\r.png").write_bytes(b"nothing")
    for _ in range(2):  # the second finds all of it done
        predict_here(digits_run, folder, tmp_path / "out", format="csv")
    rows = []
    for shard in sorted((tmp_path / "out").rglob("*.csv")):
        with open(shard, encoding="utf-8", newline="") as stream:
            rows += list(read_rows(stream))[1:]
    wanted = {*names, "bro\x1bken\r.png"} - {names[4]} | {"\\udce9.png"}
    assert {row[0] for row in rows} == wanted
    assert len(rows) == len(wanted)
