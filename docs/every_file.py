"""The last section of ``docs/architecture.md``: every file of the product, with the first line of its docstring.

python -m docs.every_file      (make docs)
"""

from __future__ import annotations

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
HEADING = "## Every file\n"
PRODUCT = sorted(
    [*ROOT.glob("*.py"), *(ROOT / "llama").rglob("*.py")], key=lambda file: (file.parent.relative_to(ROOT), file.name)
)


def summary_of(file: Path) -> str:
    """Return the first line of a module's docstring, as Markdown."""
    summary = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return summary.replace("``", "`").replace("|", "\\|")


def section() -> str:
    """Return the section as it must be now: a table for each directory."""
    parts = [f"{HEADING}\nThe first line of each module's docstring. `make docs` writes this section."]
    for directory, files in groupby(PRODUCT, key=lambda file: file.parent.relative_to(ROOT)):
        listed = {file.name: file for file in files}
        package = listed.pop("__init__.py", None)
        parts.append("### The programs" if directory == Path() else f"### `{directory}/`")
        if package is not None:
            parts.append(summary_of(package))
        rows = [f"| [{name}](../{directory / name}) | {summary_of(file)} |" for name, file in listed.items()]
        parts.append("\n".join(["| file | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def render(page: str) -> str:
    """Return the page with the section made anew."""
    return page[: page.index(HEADING)] + section()


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
