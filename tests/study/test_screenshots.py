"""The report in a real browser: phone and desktop, light and dark, without a network."""

import html
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, OPTIONS
from PIL import Image
from study_grid import trained_grid, with_gaps

from resnets.study.depth.page import write_grid_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH to look at the report"
)

SIZES = [(390, 844), (1280, 900)]
SETTINGS = {"dark": 0, "light": 1}  # Blink's preferredColorScheme
# What the page is asked once it stands: widths, what it fetched, what is drawn, colours.
PROBE = """
<script>addEventListener("load", () => {
  const seen = element => element.getBoundingClientRect().width > 0;
  const shown = [...document.querySelectorAll("svg")].filter(seen);
  parent.document.title = JSON.stringify({
    scroll: document.documentElement.scrollWidth, inner: innerWidth,
    fetched: performance.getEntriesByType("resource").length,
    rows: [...document.querySelectorAll(".panels")].map(figure => new Set(
      [...figure.children].map(svg => Math.round(svg.getBoundingClientRect().top))).size),
    widest: Math.max(...[...document.querySelectorAll("p, h1, h2, figure, .scroll, pre")]
      .map(element => element.getBoundingClientRect().right)),
    smallest: Math.min(...shown.filter(svg => svg.classList.contains("plot"))
      .flatMap(svg => [...svg.querySelectorAll("text")].map(text => text.getBBox().height
        * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)))
  });
});</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study with gaps: it has every part a report can have."""
    folder = with_gaps(trained_grid(tmp_path_factory), tmp_path_factory.mktemp("look") / "study")
    return write_grid_page(folder).report


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    """Run the browser headless and offline, with a new profile; returns what it prints."""

    def call(*options: str) -> str:
        command = [
            str(CHROMIUM),
            *OPTIONS,
            "--force-device-scale-factor=1",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            *options,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    return call


@pytest.mark.parametrize("setting", list(SETTINGS))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_report_is_drawn_in_the_readers_setting(
    report: Path,
    chromium: Callable[..., str],
    tmp_path: Path,
    width: int,
    height: int,
    setting: str,
) -> None:
    shot = tmp_path / f"{width}-{setting}.png"
    chromium(
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={SETTINGS[setting]}",
        f"--screenshot={shot}",
        report.as_uri(),
    )
    image = np.asarray(Image.open(shot).convert("L"), float)
    assert image.shape == (height, width)
    background = np.median(image)
    assert (background < 60) if setting == "dark" else (background > 200)
    written = np.abs(image - background) > 90
    assert 0.01 < written.mean() < 0.5
    # Text down the whole first screen: no long blank run of lines.
    lines = np.flatnonzero(written.any(axis=1))
    assert np.diff(lines).max() < height / 4


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_page_does_not_scroll_sideways_and_fetches_nothing(
    report: Path, chromium: Callable[..., str], tmp_path: Path, width: int, height: int
) -> None:
    page = report.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", page)
    assert policy is not None
    assert "default-src 'none'" in policy[0]
    # The policy forbids scripts, so it goes for the probe; a frame, as windows have a least width.
    inner = html.escape(page.replace(policy[0], "").replace("</body>", f"{PROBE}</body>"))
    frame = f'<iframe srcdoc="{inner}" style="width:{width}px; height:{height}px; border:0">'
    probed = tmp_path / "probed.html"
    probed.write_text(f"<!doctype html><title></title>{frame}</iframe>", encoding="utf-8")
    told = chromium("--dump-dom", probed.as_uri())
    title = re.search(r"<title>(.*?)</title>", told)
    assert title is not None
    seen = json.loads(title[1])
    assert seen["inner"] == width
    assert seen["scroll"] <= width
    assert seen["widest"] <= width
    assert seen["fetched"] == 0
    assert seen["smallest"] > 10, "text in a plot is too small to read"
    phone = width < 640
    assert seen["rows"] == ([2, 2] if phone else [1, 1])  # of two panels each
