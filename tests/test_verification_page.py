"""Claims about ``docs/verification.md``: it links every test file, and only files that exist."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if "](../tests/" in line and line.startswith("| ")]


def linked(text: str) -> set[str]:
    """Paths that a text of docs/ links, from the repository's root."""
    return {target.removeprefix("../") for target in re.findall(r"\]\((\.\./[^)#]+)[^)]*\)", text)}


def test_every_linked_file_exists() -> None:
    missing = [target for target in sorted(linked(PAGE)) if not (ROOT / target).is_file()]
    assert not missing


def test_every_test_file_is_linked() -> None:
    """From a row of a table, or from the list at the end."""
    files = {f"tests/{file.name}" for file in (ROOT / "tests").glob("test_*.py")}
    assert files <= linked(PAGE), "add to docs/verification.md: " + ", ".join(sorted(files - linked(PAGE)))


def test_no_file_of_a_table_stands_in_the_list_too() -> None:
    _, also = PAGE.split("## Also tested\n")
    assert not linked("\n".join(ROWS)) & linked(also)


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_row_has_four_cells_and_its_claim_is_sentences(row: str) -> None:
    claim, _, _, tests = (cell.strip() for cell in row.strip("|").split("|"))
    assert claim.endswith(".") and (claim[0].isupper() or claim[0].isdigit())
    assert linked(tests)


# ---- links between the pages


def anchors_of(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings: each is its own words in lower case, without signs."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["protocol.md", "verification.md", "performance.md"])
def test_every_anchor_that_a_page_links_is_there(name: str) -> None:
    docs = ROOT / "docs"
    for target in re.findall(r"\]\(([^)\s]+#[^)\s]+|#[^)\s]+)\)", (docs / name).read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        page = docs / (file or name)
        assert anchor in anchors_of(page.read_text(encoding="utf-8")), target
