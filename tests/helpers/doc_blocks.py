"""The fenced code blocks of README.md and docs/, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# Above a block: <!-- not run: REASON -->
NOT_RUN = re.compile(r"<!-- not run: ([^>]+) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line of text, `reason` why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """Such as "docs/train.md:4", for test ids and messages."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages; all there are, without any."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCED.finditer(text):
            reason = NOT_RUN.search(text[: match.start()])
            line = text[: match.start(3)].count("\n") + 1
            block = Block(page, line, match[2], match[3], reason and reason[1])
            if not languages or block.language in languages:
                found.append(block)
    return found


def commands() -> Iterator[tuple[str, str, Block]]:
    """(place, command, block) of each shell line: of "bash" blocks all, of "console" those at a
    prompt. Continued lines are joined."""
    for block in blocks("bash", "console"):
        lines = re.sub(r"\\\n", "\0", block.text).split("\n")
        number = block.line
        for line in lines:
            command = line.replace("\0", " ").strip()
            if block.language == "console":
                is_command = command.startswith("$ ")
                command = command.removeprefix("$ ")
            else:
                is_command = bool(command) and not command.startswith("#")
            if is_command:
                yield f"{block.page.relative_to(ROOT).as_posix()}:{number}", command, block
            number += line.count("\0") + 1
