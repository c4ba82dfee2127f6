"""The documentation as data: headings, links, fenced blocks, and the commands in them.

Knows: Markdown as GitHub renders it, as far as our pages use it. Knows nothing about: what a command does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


class Link(NamedTuple):
    """A link of a page: the file that it leads to (empty: the page itself) and the anchor there (may be empty)."""

    path: str
    anchor: str


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        section: anchor of the heading of level 1 or 2 above it.
        language: the word behind the fence.
        text: the lines between the fences.
        line: number of its first line in the page.
    """

    section: str
    language: str
    text: str
    line: int

    def commands(self) -> list[str]:
        """Return the shell commands without comments, each with the lines that continue it and its here-document."""
        commands, begun, until = list[str](), "", None
        for line in self.text.replace("\\\n", " ").splitlines():
            begun = f"{begun}\n{line}" if begun else line
            if until is not None:
                if line == until:
                    commands.append(begun)
                    begun, until = "", None
                continue
            if here := re.search(r"<<'(\w+)'", line):
                until = here[1]
                continue
            try:
                words = shlex.split(begun, comments=True)
            except ValueError:  # a quotation that the next line ends
                continue
            if words:
                commands.append(begun)
            begun = ""
        assert not begun, f"a quotation has no end: {begun}"
        return commands


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives a heading: lower case, spaces to hyphens, other signs left out."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def parsed(page: Path) -> tuple[frozenset[str], tuple[Block, ...], str]:
    """Return a page's anchors, its fenced blocks, and its prose: the text without these blocks."""
    anchors, blocks, prose = list[str](), list[Block](), list[str]()
    fence: tuple[str, str, int] | None = None  # the fence itself, the language, the first line
    inside, section = list[str](), ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"(`{3,}|~{3,})\s*(\S*)", line)
        if fence is None and opened:
            fence, inside = (opened[1], opened[2], number + 1), []
        elif fence is not None and line.rstrip() == fence[0]:
            blocks.append(Block(section, fence[1], "\n".join(inside) + "\n", fence[2]))
            fence = None
        elif fence is not None:
            inside.append(line)
        else:
            prose.append(line)
            if heading := re.match(r"(#{1,6})\s+(.*)", line):
                anchor = anchor_of(heading[2])
                repeated = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", each) is not None for each in anchors)
                anchors.append(f"{anchor}-{repeated}" if repeated else anchor)
                section = anchors[-1] if len(heading[1]) <= 2 else section
    assert fence is None, f"{page}:{fence and fence[2]}: the block has no end"
    return frozenset(anchors), tuple(blocks), "\n".join(prose)


def links_of(page: Path) -> Iterator[Link]:
    """Yield the links and pictures of a page that lead into the repository."""
    prose = re.sub(r"`[^`\n]*`", "", parsed(page)[2])
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|srcset|href)="([^"\s]+)"', prose)
    for target in found:
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield Link(path, anchor)


def program_calls(command: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the programs of this repository that a command line starts, each with its arguments.

    ``python cloud_main.py``, ``torchrun … cloud_main.py`` and ``python -m llama.vendor`` count, also behind ``&&``,
    ``;`` and ``|``.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    words = list(lexer)
    while words:
        end = next((i for i, word in enumerate(words) if set(word) <= set("|&;()<>")), len(words))
        one, words = words[:end], words[end + 1 :]
        for i, word in enumerate(one):
            if word == "-m" and i and "python" in one[i - 1] and one[i + 1].startswith("llama."):
                yield one[i + 1], one[i + 2 :]
                break
            if word.endswith("_main.py") or word == "split_checkpoint.py":
                yield word, one[i + 1 :]
                break
