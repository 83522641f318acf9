"""tests/messages.txt is what docs/messages.py finds in the code as it is."""

import ast
import runpy

import pytest
from paths import ROOT

GENERATOR = runpy.run_path(str(ROOT / "docs" / "messages.py"))


def test_the_snapshot_is_up_to_date():
    committed = (ROOT / "tests" / "messages.txt").read_text(encoding="utf-8")
    assert GENERATOR["messages"]() == committed, "run: make reference"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("""raise ConfigError(f"{self.path}: no {what()}; {a if b else ' x'}")""",
         [("ConfigError", "{path}: no {};  x")]),
        ("raise RequestError(503, 'too ' + many)", [("RequestError", "too {many}")]),
        ("_log.warning('%s images', 3)", [("warning", "%s images")]),
        ("echo('one' if a else 'two')", [("echo", "one|two")]),
        ("raise error", []),
        ("math.log(f'{x} y')", []),
    ],
)  # fmt: skip
def test_messages_are_found(code, found):
    assert list(GENERATOR["_found"](ast.parse(code))) == found
