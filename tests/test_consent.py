"""Claims about consent: once per origin and set of fields, and nothing is sent without it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from llama.edge.consent import ConsentRequest, consents_of
from llama.edge.terminal_run import require_consent
from llama.edge.wording import question
from llama.errors import PrivacyRefused, ProfileError
from llama.privacy.profile import Profile, profile_from
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt, read_prompt
from llama.sheets import Sheet

FILLED = profile_from({"name": "Sari", "birth_date": "12 Mei 1991", "interests": "tea", "phone": "0812 3456 7890"})
ASKS = ("name", "birth_date", "interests")


def found(*asks_for: str, origin: str = "provider", party: str = "", title: str = "Gifts") -> SourcedPrompt:
    return SourcedPrompt(Sheet(("What?",), title=title, asks_for=asks_for), origin, "gifts", party)


class Person:
    """Answers as it is made to, and remembers what was asked."""

    def __init__(self, answer: bool | None) -> None:
        self.answer, self.asked, self.notices = answer, list[str](), list[str]()

    def __call__(self, text: str) -> bool | None:
        self.asked.append(text)
        return self.answer


@pytest.fixture
def agree(tmp_path: Path) -> Callable[..., list[str]]:
    """``agree(found, answer=…, yes=…, profile=…)``: what the person was asked."""

    def ask(
        sheet: SourcedPrompt,
        answer: bool | None = True,
        yes: bool = False,
        profile: Profile = FILLED,
        mode: Mode = "schema",
    ) -> list[str]:
        person = Person(answer)
        request = ConsentRequest(sheet, profile, str(tmp_path / "profile.toml"), mode)
        require_consent(request, yes=yes, ask=person, notice=person.notices.append)
        return person.asked

    return ask


Agree = Callable[..., list[str]]


def test_a_person_is_asked_once_per_origin_and_set_of_fields(agree: Agree) -> None:
    """A smaller set is covered; a larger one, and another origin, are asked anew."""
    assert len(agree(found(*ASKS))) == 1
    assert agree(found(*ASKS)) == agree(found("name")) == []
    assert len(agree(found(*ASKS, "phone"))) == 1
    assert agree(found(*ASKS, "phone")) == []
    for origin, party in (("vendor:insurer", "insurer"), ("vendor:other", "other"), ("file:/tmp/a.toml", "")):
        assert len(agree(found(*ASKS, origin=origin, party=party))) == 1


def test_a_field_that_would_leave_in_another_form_is_asked_anew(agree: Agree) -> None:
    """The person has since chosen to send it openly."""
    agree(found("name"))
    opened = profile_from({"name": "Sari", "policy": {"name": "open"}})
    assert len(agree(found("name"), profile=opened)) == 1


def test_agreeing_to_tags_is_not_agreeing_to_raw_values(agree: Agree) -> None:
    """Nor the reverse; and the question says what it is."""
    agree(found("name", "birth_date"))
    (asked,) = agree(found("name", "birth_date"), mode="off")
    assert asked.count("unchanged, because --sanitise is off") == 2
    assert "a tag" not in asked and "with tags" not in asked
    assert agree(found("name", "birth_date"), mode="off") == agree(found("name")) == []


def test_a_field_by_another_name_is_the_same_field(agree: Agree) -> None:
    """The sheet's name for it is what is agreed to."""
    (asked,) = agree(found("nama", "minat"))
    assert "nama   as a tag" in asked and "minat  as you wrote it" in asked


def test_an_agreement_that_cannot_be_remembered_holds_for_this_run(tmp_path: Path) -> None:
    """The person has said yes; they are told that they will be asked again."""
    person = Person(True)
    nowhere = str(tmp_path / "nowhere" / "profile.toml")
    request = ConsentRequest(found("name"), FILLED, nowhere, "schema")
    require_consent(request, yes=False, ask=person, notice=person.notices.append)
    assert len(person.notices) == 1 and "cannot be stored there (No such file or directory)" in person.notices[0]


def test_declining_sends_nothing_and_is_not_remembered(agree: Agree, tmp_path: Path) -> None:
    """The next time the person is asked again."""
    for _ in range(2):
        with pytest.raises(PrivacyRefused, match="declined; nothing was sent"):
            agree(found("name"), answer=False)
    assert list(tmp_path.iterdir()) == []


def test_where_nobody_is_there_to_agree_it_says_how_to(agree: Agree, tmp_path: Path) -> None:
    """With --yes, which is for this run only."""
    with pytest.raises(PrivacyRefused, match=r"asks for name, interests\. Run this in a terminal .* --yes"):
        agree(found("name", "interests"), answer=None)
    assert agree(found("name", "interests"), answer=None, yes=True) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_in_the_profile_needs_no_consent(agree: Agree) -> None:
    """Nothing of it could leave."""
    assert agree(found("religion", "shoe_size"), answer=None) == []


def test_the_question_says_who_asks_and_what_becomes_of_each_field() -> None:
    """Each form, and that a third party gets the reply. A sheet's title is shown, never believed."""
    text = question(
        found(*ASKS, "religion", origin="vendor:insurer", party="insurer", title="From your bank"), FILLED, "schema"
    )
    assert "From your bank (from the third party insurer, to answer) asks for:" in text
    for line in ("name        as a tag, [NAME_n]", "birth_date  made coarser (decade)", "interests   as you wrote it",
                 "religion    not in your profile", "The provider can read everything you send",
                 "The third party insurer gets the reply"):  # fmt: skip
        assert line in text
    assert "Sari" not in text and "tea" not in text
    assert "from the provider" in question(found("name"), FILLED, "schema")
    where = "dir/profile.toml.consents.json remembers it. Delete that file"
    assert where in question(found("name"), FILLED, "schema", "dir/profile.toml")
    assert "from the file /x/a.toml" in question(found("name", origin="file:/x/a.toml"), FILLED, "schema")


def test_what_is_remembered_holds_no_value_and_is_the_persons_alone(agree: Agree, tmp_path: Path) -> None:
    """Origin, fields, forms, the day; mode 0600; nothing else lies beside the profile."""
    agree(found(*ASKS))
    path = consents_of(str(tmp_path / "profile.toml"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and stat.S_IMODE(path.stat().st_mode) == 0o600
    (consent,) = json.loads(path.read_text())
    assert consent["origin"] == "provider" and consent.keys() == {"origin", "fields", "agreed"}
    assert consent["fields"] == {"name": "secret", "birth_date": "quasi", "interests": "open"}
    assert "Sari" not in path.read_text()


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[{}]", b"\xff", b'[{"origin": 1, "fields": {}, "agreed": ""}]', b'[{"x":' + b"[" * 100_000]
)
def test_remembered_agreements_that_cannot_be_read_are_reported_and_not_overwritten(
    agree: Agree, tmp_path: Path, damage: bytes
) -> None:
    """Nothing is taken for granted."""
    path = consents_of(str(tmp_path / "profile.toml"))
    path.write_bytes(damage)
    with pytest.raises(ProfileError, match=r"damaged, .*; delete the file to be asked again"):
        agree(found("name"))
    assert path.read_bytes() == damage


def test_an_agreement_to_a_sheet_whose_path_is_not_utf_8_is_remembered(agree: Agree, tmp_path: Path) -> None:
    """And counts for that path only, also where another one looks like it when it is written with escapes."""
    sheets = [tmp_path / name for name in ("a\udcff.toml", r"a\xff.toml", "a\\\udcff.toml", "b.toml")]
    for path in sheets:
        path.write_text('questions = ["What?"]\nasks_for = ["name"]\n')
    prompts = [read_prompt(str(path)) for path in sheets]
    assert len({each.origin for each in prompts}) == len(sheets)
    assert prompts[3].origin == f"file:{sheets[3].resolve()}" and prompts[1].origin == f"file:{sheets[1].resolve()}"
    for prompt in prompts:
        assert agree(prompt, answer=True)
        assert not agree(prompt, answer=None)
