"""The page that links all pages of studies in a folder."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from resnets.config import ConfigError
from resnets.report.render import lead_of, render
from resnets.utils.files import RUNS, atomic_write

REPORT, INDEX = "report.html", "studies.html"
OF_STUDY = '<meta name="generator" content="resnets study">'  # in study/base.html.j2


@dataclass(frozen=True)
class Entry:
    """A study as the index lists it; `date` is that of its page."""

    folder: str
    link: str
    title: str
    lead: str
    caution: str
    date: str


def write_index(folder: Path) -> Path:
    """Write studies.html, which links the pages of all studies in `folder`; returns its path.

    Raises ConfigError if there is none.
    """
    pages = sorted(folder.glob(f"*/{REPORT}"), key=lambda path: -path.stat().st_mtime)
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    studies = [_entry(path, text) for path, text in texts.items() if OF_STUDY in text]
    if not studies:
        raise ConfigError(f"{folder}: no folder of a study with a {REPORT} in it")
    values = {"studies": studies, "others": len(texts) - len(studies)}
    page = render("study/index.html.j2", folder=folder.name or str(folder), **values)
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / INDEX


def update_index(study: Path) -> None:
    """Write the index beside the folder of a study that has got its page.

    Only in the default folder of runs, or where there is one already: nothing is written beside a
    folder that the user has chosen.
    """
    if study.parent == RUNS or (study.parent / INDEX).is_file():
        write_index(study.parent)


def _entry(path: Path, text: str) -> Entry:
    def found(pattern: str) -> str:
        match = re.search(pattern, text, re.DOTALL)
        return Markup(match[1]).striptags() if match else ""

    day = datetime.datetime.fromtimestamp(path.stat().st_mtime).date().isoformat()
    return Entry(
        folder=path.parent.name,
        link=quote(f"{path.parent.name}/{REPORT}"),
        title=found(r"<title>(.*?)</title>"),
        lead=lead_of(text),
        caution=found(r"<b>No conclusion\.</b>(.*?)</p>"),
        date=day,
    )
