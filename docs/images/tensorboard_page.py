"""Makes tensorboard.png: validation metrics of two runs on imbalanced classes, in TensorBoard.

    python docs/images/tensorboard_page.py --data imagenette

The set is that of imbalance.py; needs the extra `tensorboard`, and chromium.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from guide_runs import IMAGES, SMALL, arguments, make_once, train
from imbalance import make_set

sys.path.insert(0, str(IMAGES.parents[1] / "tests" / "helpers"))

from browser import Browser

RUNS = {"none": {}, "auto": {"loss.class_weights": "auto"}}
PAGE = "?tagFilter=val%2F(balanced_error%7Cmacro_f1)&smoothing=0#timeseries"
CARDS, WINDOW = 2, (1180, 590)
CLOSE_SETTINGS = (
    "[...document.querySelectorAll('button')].find(b => b.innerText.includes('Settings'))?.click()"
)
SECONDS, DRAWING_SECONDS = 300, 8


def main() -> None:
    """Train what is left, start TensorBoard, and take the screenshot."""
    options = arguments(__doc__)
    data = make_once(options.out / "imbalanced", lambda folder: make_set(options.data, folder))
    runs = options.out / "tracked"
    for name, fields in RUNS.items():
        train(
            "scratch", runs / name, data=data, epochs=12, seed=0,
            **{**SMALL, "data.val_fraction": 0.2, "eval.test": False, **fields},
        )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    )
    try:
        wait_for(f"{url}data/plugin/scalars/tags", len(RUNS))
        with tempfile.TemporaryDirectory() as profile:
            browser = Browser(Path(profile))
            browser.look(*WINDOW)
            browser.call("Page.navigate", url=f"{url}{PAGE}")
            browser.until(f"document.querySelectorAll('scalar-card').length >= {CARDS}", SECONDS)
            browser.run(CLOSE_SETTINGS)
            time.sleep(DRAWING_SECONDS)  # the charts grow into the room, and are drawn again
            browser.shot(IMAGES / "tensorboard.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, count: int) -> None:
    """Wait until a server answers with a JSON value of `count` parts: it has read the events."""
    for _ in range(SECONDS):
        with suppress(OSError), urllib.request.urlopen(url, timeout=SECONDS) as answer:
            if len(json.load(answer)) >= count:
                return
        time.sleep(1)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
