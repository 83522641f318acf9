"""Where the tests find files of the repository."""

from pathlib import Path

# Real images, where they are at hand.
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
HELPERS, GOLDEN = TESTS / "helpers", TESTS / "golden"
