"""What a sheet needs in clear is still there: trips' dates, budgets, sizes and quantities, for everybody's profile.

The fields that the seven shipped sheets ask for and that leave as they are: recipient, interests, budget, notes,
headcount, occasion, trip, city; a birth date leaves as its decade, a name, a spouse and an employer as tags.
"""

from __future__ import annotations

from typing import Any

import pytest

from llama.chat import Llama3Format
from llama.privacy.policy import FieldPolicy, field_of
from llama.privacy.preparing import prepare
from llama.privacy.profile import profile_from
from llama.prompt import read_from_directory
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from tests.canaries import SHEET_IDS, SHEETS
from tests.everyday import ordinary_profiles

IN_CLEAR: dict[str, tuple[Any, ...]] = {
    "recipient": ("my sister", "my colleague in finance", "kakak saya", "tetangga sebelah"),
    "interests": ("tea, hiking, jazz", ["chess", "old films"], "berkebun dan memasak"),
    "budget": ("Rp 750.000", "$45 to $60", "£1,200", 350000, "sekitar 1,5 juta", "under 20 euros"),
    "notes": (
        "Size 38 or M, two of them, before 19 December at 17.30.",
        "Ukuran 42, warna biru, 3 buah, paling lambat 20 Juni.",
        "Version 2.1.7, ISO 9001, 50% off, table 14, flight 818.", "Nothing over 2 kg; 15 x 20 cm fits best.",
    ),
    "headcount": (40, "25 people", "sekitar 150 orang"),
    "occasion": ("end of the year", "farewell", "syukuran rumah baru"),
    "trip": (
        "3 to 9 November 2099, eight nights, two adults", "ten days in Norway, skiing", "4 hari 3 malam di Lombok",
        "2099-05-12 to 2099-05-20, Rome", "12/5/2099 - 20/5/2099", "berangkat 1 Maret 2099, pulang 9 Maret 2099",
    ),
    "city": ("Surabaya", "Rotterdam", "Kuala Lumpur", "Banda Aceh"),
}  # fmt: skip


def written(value: Any) -> list[str]:
    """How each item of a value is written in a prompt."""
    if value == 350000:
        return ["Rp 350.000"]
    return [str(item) for item in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("sheet_id", SHEET_IDS)
def test_what_the_sheets_need_in_clear_is_there_for_everybody(sheet_id: str, tokenizer: Tokenizer) -> None:
    """Two dozen profiles whose values are everyday words and round numbers; each open value in turn."""
    found = read_from_directory(str(SHEETS), sheet_id)
    assert isinstance(found.prompt, Sheet)
    asked = [name for name in found.prompt.asks_for if field_of(name).policy is FieldPolicy.OPEN]
    assert set(asked) <= set(IN_CLEAR)
    masked = list[str]()
    for number, person in enumerate(ordinary_profiles()):
        chosen = {name: IN_CLEAR[name][number % len(IN_CLEAR[name])] for name in asked}
        profile = profile_from({**{k: v for k, v in person.items() if k != "language"}, **chosen})
        done = prepare(found, profile, "schema", Llama3Format(tokenizer), tokenizer, 8192)
        text = done.dialog[-1].content
        masked += [f"{name} of person {number}: {item!r}" for name in asked for item in written(chosen[name])
                   if item not in text]  # fmt: skip
    assert not masked
