"""The page of all flags is what the programs say, and every flag has a help text."""

from __future__ import annotations

import pytest

from docs.command_line import PAGE, PROGRAMS, page
from llama.command import flags_of, help_text, summary_of


def test_the_page_is_what_the_programs_say() -> None:
    """It is generated; a change of a flag must change it."""
    assert PAGE.read_text() == page(), "docs/command-line.md is stale; run: make docs"


@pytest.mark.parametrize(("program", "number"), [(each[0], i) for i, each in enumerate(PROGRAMS)])
def test_every_flag_of_every_program_has_a_type_and_a_sentence(program: str, number: int) -> None:
    """In the program's help, too, whole, however wide the terminal is."""
    _, main, usage = PROGRAMS[number]
    helped = " ".join(help_text(main, usage).split())
    assert summary_of(main).endswith(".")
    for flag in flags_of(main):
        assert flag.kind and flag.about.endswith("."), flag.name
        assert f"--{flag.name} " in helped and flag.about.split(". ")[0] in helped, flag.name
