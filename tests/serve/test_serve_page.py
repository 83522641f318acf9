"""The server's page in a real browser: phone and desktop, light and dark, keyboard, camera."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image
from serving import Running, encoded_image, running, save_classifier, save_detector

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH to look at the page")
READY = "document.readyState === 'complete' && !document.querySelector('#model').disabled"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("nets")
    finder = save_detector(folder / "finder.safetensors")
    with running(f"net={save_classifier(folder / 'n.safetensors')}", f"finder={finder}") as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    path = tmp_path / "spots.png"
    path.write_bytes(encoded_image(300, 200))
    return path


def visit(browser: Browser, served: Running, width: int, height: int, *, dark: bool) -> None:
    browser.events.clear()
    browser.look(width, height, dark=dark)
    browser.call("Page.navigate", url=f"{served.url}/")
    browser.until(READY)


def choose(browser: Browser, place: int) -> None:
    browser.run(
        f"(() => {{ const s = document.querySelector('#model'); s.selectedIndex = {place};"
        " s.dispatchEvent(new Event('change')); })()"
    )


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, True), (1280, 900, False)])
def test_image_to_answer_to_explanation_and_boxes(
    browser: Browser, served: Running, spots: Path, tmp_path: Path, width, height, dark
):
    visit(browser, served, width, height, dark=dark)
    browser.give("#files", spots)
    browser.until("document.querySelectorAll('article button.row').length === 4")
    said = served.client.post("/predict", content=spots.read_bytes(),
                              headers={"content-type": "image/png"}).json()  # fmt: skip
    best = said["predictions"][0]["classes"][0]["class"]
    assert browser.run("document.querySelector('article .name').textContent") == best
    assert best in browser.run("document.querySelector('#status').textContent")
    # Keyboard only: to the first class and down on it.
    browser.run("document.querySelector('button.row').focus()")
    browser.key("Enter", 13)
    browser.until("document.querySelector('button.row').getAttribute('aria-pressed') === 'true'")
    browser.until("document.querySelector('article img').naturalWidth === 320")
    assert best in browser.run("document.querySelector('article img').alt")
    choose(browser, 1)
    browser.give("#files", spots)
    browser.until("document.querySelectorAll('article').length === 2")
    assert browser.run("document.querySelectorAll('article:first-child svg').length") == 1
    assert browser.run("document.documentElement.scrollWidth") <= width
    shot = tmp_path / "page.png"
    browser.shot(shot)
    background = np.median(np.asarray(Image.open(shot).convert("L")))
    assert (background < 70) if dark else (background > 190)
    wrong = [each for each in browser.events if each["method"] in ("Log.entryAdded",
             "Runtime.exceptionThrown")]  # fmt: skip
    assert wrong == []
    asked = [each["params"]["request"]["url"] for each in browser.events
             if each["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked
    assert all(url.startswith((served.url, "blob:")) for url in asked)


def test_everything_has_a_name_for_screen_readers(browser: Browser, served: Running, spots: Path):
    visit(browser, served, 800, 600, dark=False)
    browser.give("#files", spots)
    browser.until("document.querySelectorAll('article').length === 1")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "link", "combobox", "img", "image", "region", "textbox")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]
    assert {"button", "link", "combobox"} <= {role for role, _ in named}
    assert all(name for _, name in named), named
    assert browser.run("document.querySelector('[role=status]').getAttribute('aria-live')")


def test_bad_images_are_reported_and_the_camera_works(
    browser: Browser, served: Running, tmp_path: Path
):
    visit(browser, served, 800, 600, dark=False)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    browser.give("#files", bad)
    browser.until("!!document.querySelector('#status.error')")
    assert browser.run("document.querySelector('article.failed h2').textContent") == "bad.png"
    assert browser.run("document.querySelector('article.failed .error').textContent")
    browser.run("document.querySelector('#camera').focus()")
    browser.key("Enter", 13)
    browser.until("document.querySelector('#viewfinder').open")
    browser.until("document.querySelector('#video').videoWidth > 0")
    browser.run("document.querySelector('#shoot').click()")
    browser.until("document.querySelectorAll('article').length === 2")
    assert not browser.run("document.querySelector('#viewfinder').open")


def test_an_image_that_browsers_do_not_show_is_converted(
    browser: Browser, served: Running, tmp_path: Path
):
    visit(browser, served, 390, 844, dark=False)
    tiff = tmp_path / "scan.tif"
    tiff.write_bytes(encoded_image(300, 200, form="TIFF"))
    browser.give("#files", tiff)
    browser.until("document.querySelector('article img')?.naturalWidth === 300")
    visible = "getComputedStyle(document.querySelector('.runtime')).display"
    assert browser.run(visible) == "none"


def test_dropped_and_pasted_images(browser: Browser, served: Running):
    visit(browser, served, 800, 600, dark=False)
    data = json.dumps(list(encoded_image()))
    ways = {"drop": ("DragEvent", "dataTransfer"), "paste": ("ClipboardEvent", "clipboardData")}
    for number, (kind, (event, field)) in enumerate(ways.items(), 1):
        browser.run(
            "(() => { const held = new DataTransfer();"
            f" held.items.add(new File([new Uint8Array({data})], 'a.png', {{type: 'image/png'}}));"
            f" document.body.dispatchEvent(new {event}('{kind}',"
            f" {{{field}: held, bubbles: true, cancelable: true}})); }})()"
        )
        browser.until(f"document.querySelectorAll('article').length === {number}")


def test_an_object_is_shown_alone(browser: Browser, served: Running):
    visit(browser, served, 800, 600, dark=False)
    objects = [
        {"class": name, "score": 0.9, "box": [10 * n, 10, 10 * n + 8, 40]}
        for n, name in enumerate(("disc", "star", "disc"))
    ]
    said = {"predictions": [{"width": 100, "height": 50, "objects": objects}]}
    said["milliseconds"] = {"total": 1}
    browser.run(
        "results.append(show(new File([], 'a.png'), {classes: ['disc', 'box', 'star']},"
        f" {json.dumps(said)}, 2))"
    )
    assert browser.run("document.querySelector('article h2').textContent") == "2 disc, 1 star"
    hues = "[...document.querySelectorAll('rect')].map((each) => each.getAttribute('stroke'))"
    first, second, third = browser.run(hues)
    assert first == third != second
    browser.run("document.querySelectorAll('button.row')[1].focus()")
    hidden = "[...document.querySelectorAll('rect')].map((each) => each.classList.contains('dim'))"
    for shown in ([True, False, True], [False] * 3):
        browser.key("Enter", 13)
        assert browser.run(hidden) == shown
    assert browser.run("document.querySelectorAll('[aria-pressed=true]').length") == 0


def test_token_is_asked_for(browser: Browser, tmp_path: Path):
    with running(f"net={save_classifier(tmp_path / 'n.safetensors')}", token="secret") as served:
        browser.call("Page.navigate", url=f"{served.url}/")
        browser.until("document.querySelector('#ask-token')?.open")
        browser.run("document.querySelector('#token').value = 'secret'")
        browser.run("document.querySelector('#ask-token button').click()")
        browser.until(READY)
