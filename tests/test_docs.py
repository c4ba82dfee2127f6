"""The documentation is whole: links lead somewhere, blocks parse, commands have flags that exist."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

from docs import every_file
from docs.command_line import PROGRAMS
from llama.command import check_flags
from llama.errors import UsageError
from tests.documents import PAGES, README, ROOT, Block, anchor_of, links_of, parsed, program_calls

LANGUAGES = {"sh", "console", "text", "toml", "json", "python", "hexdump"}
BLOCKS = [(page, block) for page in PAGES for block in parsed(page)[1]]
MAINS = {program.removeprefix("-m "): main for program, main, _ in PROGRAMS}
COMMANDS = [(page, block, command) for page, block in BLOCKS if block.language == "sh" for command in block.commands()]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def where(case: object) -> str | None:
    if isinstance(case, Path):
        return name_of(case)
    return str(case.line) if isinstance(case, Block) else None


# ---- the pages


def test_the_readme_fits_on_two_hundred_lines() -> None:
    """And says what protects before it says anything else at length."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    first_screen = "\n".join(lines[:60])
    assert "The cut alone protects nothing" in first_screen and "make demo" in first_screen


def test_the_readme_leads_to_every_page() -> None:
    """A page that has no link is not found."""
    linked = {link.path for link in links_of(README)}
    assert {name_of(page) for page in PAGES if page != README} <= linked


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    """Also links within a page, and pictures."""
    for link in links_of(page):
        target = page if not link.path else (page.parent / link.path).resolve()
        assert target.exists(), f"{link.path} is not there"
        assert target.is_relative_to(ROOT), link.path
        if link.anchor and target.suffix == ".md":
            assert link.anchor in parsed(target)[0], f"{name_of(target)} has no heading #{link.anchor}"


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=where)
def test_every_block_says_what_it_is_and_parses(page: Path, block: Block) -> None:
    """TOML, JSON and Python are read by their own parsers."""
    assert block.language in LANGUAGES, f"{name_of(page)}:{block.line}: write ```sh, ```text, … not ```{block.language}"
    if block.language == "toml":
        tomllib.loads(block.text)
    if block.language == "json":
        json.loads(block.text)
    if block.language == "python":
        ast.parse(block.text)


@pytest.mark.parametrize(("page", "block", "command"), COMMANDS, ids=where)
def test_every_command_has_flags_that_the_program_takes(page: Path, block: Block, command: str) -> None:
    """Each program's own parser reads the flags; nothing is started."""
    for program, arguments in program_calls(command):
        if program == "llama.keys":
            continue  # words, not flags; tests/test_docs_run.py runs these
        try:
            check_flags(MAINS[program], arguments)
        except UsageError as err:
            pytest.fail(f"{name_of(page)}:{block.line}: {program} {' '.join(arguments)}: {err}")


def test_the_architecture_page_lists_every_file_as_it_is_now() -> None:
    """With the first line of its docstring."""
    page = every_file.PAGE.read_text(encoding="utf-8")
    assert every_file.render(page) == page, "docs/architecture.md is stale; run: make docs"
    linked = {link.path for link in links_of(every_file.PAGE)}
    assert {f"../{file.relative_to(ROOT)}" for file in every_file.PRODUCT if file.name != "__init__.py"} <= linked


# ---- the checks themselves


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("The partner catalogue", "the-partner-catalogue"),
        ("Llama 3.1 8B", "llama-31-8b"),
        ("What holds, and how it is known", "what-holds-and-how-it-is-known"),
        ("`/metrics` and `--follow`", "metrics-and---follow"),
        ("A [link](x.md)", "a-link"),
    ],
)
def test_anchors_are_githubs(heading: str, anchor: str) -> None:
    """As its renderer makes them."""
    assert anchor_of(heading) == anchor


def test_programs_are_found_in_a_command() -> None:
    """Behind others, under torchrun, and with a comment behind."""
    line = ". .venv/bin/activate && printf 'a --b' > x; torchrun --standalone cloud_main.py --ckpt_dir c | cat # --no"
    assert list(program_calls(line)) == [("cloud_main.py", ["--ckpt_dir", "c"])]
    assert list(program_calls("python -m llama.status --json")) == [("llama.status", ["--json"])]
