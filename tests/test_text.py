"""Claims about what all texts have in common: how names, amounts and dates are written, and what a screen may get."""

from __future__ import annotations

import pytest

from llama.text.names import MAX_PARTY_NAME, is_field_name, is_party_name, is_prompt_id, name_rule
from llama.text.printable import escaped, printable


@pytest.mark.parametrize(("text", "party", "prompt", "field"), [
    ("toko-a", True, True, False),
    ("a" * 40, True, True, True),
    ("a" * 41, False, True, False),
    ("a" * 81, False, False, False),
    ("insurer/cover", False, True, False),
    (f"{'a' * 41}/cover", False, False, False),
    ("birth_date", False, False, True),
    ("Toko", False, False, False),
    ("toko\n", False, False, False),
    ("١", False, False, False),
    ("", False, False, False),
])  # fmt: skip
def test_a_name_is_of_few_characters_and_bounded(text: str, party: bool, prompt: bool, field: bool) -> None:
    assert (is_party_name(text), is_prompt_id(text), is_field_name(text)) == (party, prompt, field)
    assert name_rule(MAX_PARTY_NAME) == "1 to 40 of a-z, 0-9 and -"


def test_a_screen_gets_text_and_nothing_that_it_would_obey() -> None:
    """Not the controls, nor the signs that turn the direction of writing; tabs, lines' ends and all letters stay."""
    left_out = {*range(0x09), 0x0B, 0x0C, *range(0x0D, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F),
                *range(0x2066, 0x206A)}  # fmt: skip
    assert {code for code in range(0x110000) if not printable(chr(code))} == left_out
    assert escaped('"a\x1b\u202e\tb\n"') == '"a\\u001b\\u202e\tb\n"'
