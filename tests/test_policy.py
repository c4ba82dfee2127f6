"""Claims about the two tables: what becomes of a field, and who holds what after a run."""

from __future__ import annotations

import itertools
import re

import pytest

from llama.cloud.schema import COLUMNS
from llama.edge.terminal import Terminal
from llama.privacy import policy
from llama.privacy.gate import Outgoing
from llama.privacy.merging import Passage
from llama.privacy.policy import FIELDS, SEES, DataKind, Field, FieldPolicy, Generaliser, Party, field_of, view
from llama.privacy.preparing import Prepared
from llama.privacy.profile import Profile
from llama.privacy.review import review
from llama.privacy.sanitiser import Sanitiser
from tests.conftest import ROOT

RUN = {kind: f"the very words of {kind}" for kind in DataKind}


@pytest.mark.parametrize(("kind", "party", "own"), list(itertools.product(DataKind, Party, (True, False))))
def test_a_view_holds_what_its_cell_of_the_table_says(kind: DataKind, party: Party, own: bool) -> None:
    """Cell by cell, for runs of a third party's sheet and for all others."""
    cell = SEES[kind][party]
    held = view(party, RUN, vendors_own=own)
    assert (kind in held) == (cell.holds and (own or not cell.own_only))
    assert kind not in held or held[kind] == RUN[kind]


def test_the_table_is_the_agreed_one() -> None:
    """Written out once more, by hand: the customer everything, the provider no personal data, a third party its own."""
    assert {kind: tuple(SEES[kind][party].holds for party in Party) for kind in DataKind} == {
        DataKind.PROFILE: (True, False, False),
        DataKind.SANITISED_PROMPT: (True, True, False),
        DataKind.PROVIDER_PROMPT: (True, True, False),
        DataKind.VENDOR_PROMPT: (True, True, True),
        DataKind.REPLY_WITH_TAGS: (True, True, True),
        DataKind.REPLY: (True, False, False),
        DataKind.OFFERS: (True, True, True),
        DataKind.TIMINGS: (True, True, False),
    }
    assert {kind for kind in DataKind if SEES[kind][Party.VENDOR].own_only} == {
        DataKind.VENDOR_PROMPT, DataKind.REPLY_WITH_TAGS, DataKind.OFFERS,
    }  # fmt: skip
    assert SEES[DataKind.SANITISED_PROMPT][Party.PROVIDER].says == "not sent as text; assume recoverable"


def test_without_a_vendor_there_is_nobody_to_hold_anything() -> None:
    """A run of the provider's own sheet, or of the person's own words."""
    assert view(Party.VENDOR, RUN, vendors_own=False) == {}


def test_a_vendor_whose_copy_is_withheld_has_its_own_prompt_and_no_more() -> None:
    """Neither the reply nor what was found for it; the others' shares are as ever."""
    assert set(view(Party.VENDOR, RUN, vendors_own=True, delivered=False)) == {DataKind.VENDOR_PROMPT}
    for party in (Party.CUSTOMER, Party.PROVIDER):
        assert view(party, RUN, vendors_own=True, delivered=False) == view(party, RUN, vendors_own=True)


def test_the_screen_shows_each_party_its_cells_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    """Three columns; what a party does not hold is not in its column, whatever the width breaks."""
    run = {kind: f"K{i}secretword" for i, kind in enumerate(DataKind)}
    Terminal(plain=False).show_views(run, vendor="insurer", tags=(), raw=False)
    rows = [line.split("│")[1:-1] for line in capfd.readouterr().out.splitlines() if line.startswith("│")]
    columns = {party: " ".join(row[i].strip() for row in rows) for i, party in enumerate(Party, start=1)}
    for party, (kind, text) in itertools.product(Party, run.items()):
        assert (text in columns[party]) == SEES[kind][party].holds, (party, kind)


def test_the_screen_shows_text_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither markup nor control characters of a sheet or a reply do anything to the screen."""
    screen = Terminal(plain=False)
    hostile = "[name_1] and [/x] [bold]\x1b[2J\x9b31m\u202e :smile: [link=http://x]y[/link]"
    sanitiser = Sanitiser(Profile().with_private_words(["Vorbex [/y] \x1b[2J"]))
    words = Passage("user", (sanitiser.clean(f"Vorbex [/y] [2J {hostile} and some zorblat"),))
    reviewed = review([words], sanitiser)
    assert sanitiser.tags and reviewed.stays
    screen.show_prompt(Prepared(Outgoing((), ""), (words.message,), sanitiser, passages=(words,)))
    screen.show_views({DataKind.REPLY: "[/x] [red]\x1b]0;title\x07"}, vendor="", tags=(), raw=False)
    out = capfd.readouterr().out
    for text in ("[name_1] and [/x] [bold]", ":smile:", "[link=http://x]y[/link]", "[/x] [red]"):
        assert text in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)


def test_what_the_provider_records_is_what_the_table_lets_it_hold() -> None:
    """Every column of its record is a run's name, a time or a count, the reply with tags or the offers for it.

    Whose key it came with is no kind of the table: ``owner`` is encrypted, differently in every row.
    """
    columns = set(COLUMNS["runs"])
    names, times = {"run_id", "prompt_id"}, {"opened_at", "finished_at", "prompt_tokens", "output_tokens", "compute_us"}
    assert columns == names | times | {"text", "offers", "copy", "owner"} | {"number", "bytes"}
    assert SEES[DataKind.OFFERS][Party.PROVIDER].holds
    assert SEES[DataKind.REPLY_WITH_TAGS][Party.PROVIDER].holds and SEES[DataKind.TIMINGS][Party.PROVIDER].holds


@pytest.mark.parametrize("page", ["README.md", "docs/privacy.md"])
def test_both_pages_show_this_table(page: str) -> None:
    """Compare word for word."""
    assert policy.as_markdown() in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.names[0])
def test_the_privacy_page_lists_every_name_of_a_field_with_its_policy(field: Field) -> None:
    """Find the names side by side, in a row of their policy and tag or coarser form."""
    form = field.generaliser or ("as written" if field.policy is FieldPolicy.OPEN else f"`[{field.tag}_1]`")
    names = ", ".join(f"`{name}`" for name in field.names)
    lines = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith(f"| `{field.policy}` | {form} |"))
    assert re.search(rf"(?:\| |; ){re.escape(names)}(?:;| \|)", row)


def test_an_unknown_field_is_secret() -> None:
    """Nobody has thought about it yet, so it stays."""
    for name in ("shoe_of_my_horse", "x", "notes_", "Interests"):
        assert (field_of(name).policy, field_of(name).tag) == (FieldPolicy.SECRET, "PRIVATE")


@pytest.mark.parametrize(
    "name",
    ["diagnosis", "kesehatan", "blood_type", "religion", "agama", "children", "anak", "debt",
     "keuangan", "bank_account",
     "credit_card", "biometric", "dna", "criminal_record", "sexual_orientation"],
)  # fmt: skip
def test_what_the_law_calls_specific_is_secret(name: str) -> None:
    """UU PDP, article 4(2), and religion."""
    assert field_of(name).policy is FieldPolicy.SECRET


def test_a_name_means_one_field_and_a_coarse_field_says_how() -> None:
    """No name is in the table twice; quasi-identifiers have a generaliser, and all four are used."""
    names = [name for field in FIELDS for name in set(field.names)]
    assert len(names) == len(set(names))
    assert all((field.generaliser is not None) == (field.policy is FieldPolicy.QUASI) for field in FIELDS)
    assert {field.generaliser for field in FIELDS} - {None} == set(Generaliser)


def test_the_policy_needs_the_standard_library_only() -> None:
    """Both sides load it."""
    source = (ROOT / "llama" / "privacy" / "policy.py").read_text()
    imported = set(re.findall(r"^(?:from|import) (\S+)", source, re.MULTILINE))
    assert imported == {"__future__", "enum", "collections.abc", "dataclasses", "typing"}
