"""`resnets export --to web`: a folder with a page that classifies images in the browser.

It has the ONNX artifact, the page of `resnets serve`, and onnxruntime-web, which is downloaded once
with npm into the user's cache. Any web server can serve it; the page loads nothing else. Before it
is moved into place, headless Chromium computes the logits of the verification images with it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import queue
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError, dump_json
from resnets.data.sources.builtin import load_photographs
from resnets.export.export import export_classifier, gather_evidence
from resnets.export.verify import LIMITS, VerificationError, relative_difference
from resnets.models import ImageClassifier
from resnets.runtime.artifact import Precision, manifest_path
from resnets.runtime.base import ArtifactBackend
from resnets.runtime.open import open_artifact
from resnets.utils.errors import name_in_errors
from resnets.utils.machine.environment import cache_folder

RUNTIME = "onnxruntime-web"
VERSION = "1.22.0"
# SHA-512 of the package, as published in the npm registry.
INTEGRITY = (
    "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
)
RUNTIME_FILES = (
    "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
PAGE_FILES = ("index.html", "page.css", "page.js", "icon.svg")
MODEL = "model.onnx"
SCRIPT = '<script src="page.js" defer></script>'
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 300  # seconds for the browser to compute all verification images


def export_web(
    model: ImageClassifier,
    precision: Precision,
    out: Path,
    *,
    data: str | None = None,
    max_drop: float = 0.5,
    source: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the folder `out`, which must not exist; see `export.export.export_classifier`.

    Raises ConfigError without Chromium, or without npm while the runtime is not in the cache.
    """
    if out.exists():
        raise ConfigError(f"--out {out}: exists already; name a new folder")
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        raise ConfigError(
            f"--to web: is verified in a browser; install one of {', '.join(CHROMIUM)}"
        )
    runtime = fetch_runtime(log)
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary,
        name_in_errors(out, Path(temporary)),
    ):
        folder = Path(temporary, out.name)
        folder.mkdir(mode=0o755)
        artifact = folder / MODEL
        manifest = export_classifier(
            model, "onnx", precision, artifact, data=data, max_drop=max_drop, source=source, log=log
        )
        _write_page(folder, runtime)
        log("verifying outputs in the browser")
        images = gather_evidence(model, data, "float32").images
        manifest["web"] = {
            "runtime": f"{RUNTIME} {VERSION}",
            "browser": _version(browser),
            **verify_in_browser(browser, folder, open_artifact(artifact), images),
        }
        dump_json(manifest, manifest_path(artifact))
        os.replace(folder, out)
    return manifest


def fetch_runtime(log: Callable[[str], None]) -> Path:
    """Return the package of onnxruntime-web in the cache; npm downloads it the first time.

    Raises ConfigError if it cannot be downloaded, or is not the expected one.
    """
    package = cache_folder() / "npm" / f"{RUNTIME}-{VERSION}.tgz"
    if not package.is_file():
        if shutil.which("npm") is None:
            raise ConfigError(
                f"--to web: needs npm to fetch {RUNTIME} {VERSION} once; install Node.js, or put"
                f" the package at {package}"
            )
        package.parent.mkdir(parents=True, exist_ok=True)
        log(f"fetching {RUNTIME} {VERSION} with npm (20 MB)")
        with tempfile.TemporaryDirectory(dir=package.parent, prefix=".fetch-") as folder:
            command = ["npm", "pack", f"{RUNTIME}@{VERSION}"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            fetched = Path(folder, package.name)
            if done.returncode or not fetched.is_file():
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ConfigError(f"--to web: npm cannot fetch {RUNTIME} {VERSION} ({reason})")
            os.replace(fetched, package)
    digest = hashlib.sha512(package.read_bytes()).digest()
    if base64.b64encode(digest).decode() != INTEGRITY:
        raise ConfigError(f"{package}: is not {RUNTIME} {VERSION} (SHA-512 differs); delete it")
    return package


def _write_page(folder: Path, runtime: Path) -> None:
    """Write the page, and the files of the runtime that it loads."""
    served, own = resources.files("resnets") / "serve/page", resources.files("resnets") / "export"
    for name in PAGE_FILES:
        (folder / name).write_bytes((served / name).read_bytes())
    (folder / "local.js").write_bytes((own / "local.js").read_bytes())
    page = (folder / "index.html").read_text("utf-8")
    assert SCRIPT in page
    scripts = "".join(
        f'<script src="{name}" defer></script>\n' for name in (RUNTIME_FILES[0], "local.js")
    )
    (folder / "index.html").write_text(page.replace(SCRIPT, scripts + SCRIPT), "utf-8")
    with tarfile.open(runtime) as archive:
        for name in RUNTIME_FILES:
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None
            (folder / name).write_bytes(file.read())


def verify_in_browser(
    browser: str, folder: Path, backend: ArtifactBackend, images: NDArray[np.uint8]
) -> dict[str, Any]:
    """Compare the page's logits of `images` and of two photographs with those of `backend`.

    Raises VerificationError if any class or the logits differ.
    """
    photographs = [each[:400, :560] for each in load_photographs()]
    if backend.channels == 1:
        photographs = [
            np.asarray(Image.fromarray(each).convert("L"))[..., None] for each in photographs
        ]
    full_image = [backend.full_image_logits(each) for each in photographs]
    expected = np.stack(
        [*backend.logits(images), *(each for each in full_image if each is not None)]
    )
    actual = np.array(_compute_in_browser(browser, folder, [*images, *photographs]), np.float32)
    limit = LIMITS[backend.metadata.precision]
    relative = relative_difference(actual, expected)
    same = int((actual.argmax(1) == expected.argmax(1)).sum())
    if same < len(expected) or not relative <= limit:
        raise VerificationError(
            f"the page differs from {MODEL} in onnxruntime: {same} of {len(expected)} images have"
            f" the same class, and the relative difference of the logits is {relative:.2g}, allowed"
            f" {limit:g}; nothing was written"
        )
    return {"images": len(expected), "same_class": same, "relative": relative, "limit": limit}


def _compute_in_browser(
    browser: str, folder: Path, images: Sequence[NDArray[np.uint8]]
) -> list[list[float]]:
    with (
        _serve(folder, [_png(each) for each in images]) as (port, answers),
        tempfile.TemporaryDirectory() as profile,
    ):
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-sync",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",  # without, it may end once the page is loaded
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # it refuses to run as root with one
            f"http://127.0.0.1:{port}/index.html?proof={len(images)}",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        answer: dict[str, Any] = {"error": f"no answer within {TIMEOUT} s"}
        try:
            for _ in range(TIMEOUT):
                with suppress(queue.Empty):
                    answer = answers.get(timeout=1)
                    break
                if process.poll() is not None:
                    answer = {"error": f"{browser} ended with code {process.returncode}"}
                    break
        finally:
            process.terminate()
            process.wait()
    if "logits" not in answer:
        raise VerificationError(f"the page failed in the browser: {answer.get('error')}")
    logits: list[list[float]] = answer["logits"]
    return logits


def _png(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
    return out.getvalue()


@contextmanager
def _serve(folder: Path, images: Sequence[bytes]) -> Iterator[tuple[int, queue.Queue[Any]]]:
    """Serve `folder` and proof/0.png ... on loopback; yields port and a queue of posted data."""
    answers: queue.Queue[Any] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/proof/"):
                return super().do_GET()
            body = images[int(self.path.removeprefix("/proof/").removesuffix(".png"))]
            return self._answer(body)

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is logged."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, answers
        finally:
            server.shutdown()
            thread.join()


def _version(browser: str) -> str:
    return subprocess.run(
        [browser, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
