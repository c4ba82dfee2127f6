"""Claims about the last look: what is shown before a prompt leaves, what looks personal in it, and how it is hidden."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.chat import Message
from llama.edge.last_look import LastLook, answer_of
from llama.edge.pipeline import Preview, RunPipeline, RunSettings, VersionedProfile
from llama.edge.profile_file import add_private_words
from llama.edge.sheet_source import SheetSource
from llama.errors import Declined, PrivacyRefused, ProfileError, UsageError
from llama.privacy.merging import Passage, own_words
from llama.privacy.policy import FieldPolicy
from llama.privacy.profile import MAX_FIELDS, PRIVATE_WORDS, Profile, parse, profile_from
from llama.privacy.profile_edit import with_private_words
from llama.privacy.review import LooksPersonal, Mark, MarkKind, Reason, looks_personal, pieces_of, review, written_in
from llama.privacy.sanitiser import Mode, Sanitiser
from llama.prompt import OwnWords
from llama.sampling_params import SamplingParams
from tests.pages import device_of
from tests.processes import at_a_terminal, cloud
from tests.support import ROOT, run_main, written
from tests.volumes import examples

TEXT = "Compare the Vorbex lamp with Quillon glass, please. It would go in our small kitchen."  # nothing is recognised


def found_in(text: str) -> list[str]:
    return [text[start:end] for start, end, _ in looks_personal(text)]


def reviewed(text: str, profile: Profile, mode: Mode = "schema") -> tuple[str, list[tuple[str, str]]]:
    """The text that leaves, and its marked stretches."""
    sanitiser = Sanitiser(profile, mode, own=[text])
    passages = own_words(OwnWords((Message("user", text),)), sanitiser)
    content = passages[0].message.content
    marks = review(passages, sanitiser, fields=False).marks
    return content, [(mark.kind, content[mark.start : mark.end]) for mark in marks if mark.kind is not MarkKind.OWN]


# ---- what looks personal


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a gift for our neighbour Zyrimane", ["Zyrimane"]),
        ("a gift for zyrimane please", ["zyrimane"]),
        ("we met Ana Thimblewick there", ["Ana Thimblewick"]),
        ("her number is 88213377, or 8821 337 700", ["88213377", "8821 337 700"]),
        ("the code on it is QX77-1203A, thanks", ["QX77-1203A"]),
        ("ask @mirazul82 about it", ["@mirazul"]),
        ("kado untuk Bu Zulmarika di kantor", ["Zulmarika"]),
    ],
)
def test_names_rare_words_and_long_numbers_look_personal(text: str, found: list[str]) -> None:
    """Whatever the case; neighbours are one stretch."""
    assert [each for each in found_in(text) if each in found] == found


@pytest.mark.parametrize(
    "text",
    [
        "I would like a gift for my mother who likes tea and gardening.",
        "It costs Rp 1.500.000, or 1500000 rupiah, or $1,250.00.",
        "Open 10.00-22.00, Monday to Friday, since 2019-2024.",
        "A rug of 120x180 cm, 220-240 V, from 6pm-10pm.",
        "Ibu saya suka berkebun dan memasak, kami membelikannya sesuatu yang sederhana.",
        "Christmas in London, Easter in Jakarta.",
        "The Best Gifts For Your Mother This Year",
    ],
)
def test_everyday_words_prices_times_and_measures_do_not(text: str) -> None:
    """Nor towns, nor capitals where a line has many."""
    assert found_in(text) == []


@given(st.text(max_size=200))
@examples()
def test_stretches_that_look_personal_are_in_the_text_and_in_order(text: str) -> None:
    """They do not overlap, and begin and end with a letter or a digit."""
    last = 0
    for start, end, reason in looks_personal(text):
        assert last <= start < end <= len(text) and isinstance(reason, Reason)
        assert text[start].isalnum() or text[start] == "@"
        last = end


# ---- the marks


def test_what_became_a_tag_what_is_open_and_what_stays_are_marked() -> None:
    """Of the person's own words."""
    profile = profile_from({"name": "Sari Wulandari", "interests": "chess"})
    content, marks = reviewed("I am Sari Wulandari. Thimblewick and I like chess.", profile)
    assert content == "I am [NAME_1]. Thimblewick and I like chess."
    assert marks == [("tag", "[NAME_1]"), ("stays", "Thimblewick"), ("open", "chess")]


def test_words_of_a_sheet_are_not_read() -> None:
    """They are the same for all people. A field is open as a whole, but for its tags."""
    profile = profile_from({"notes": "Call 0812-3456-7890, Oskarina"})
    sanitiser = Sanitiser(profile)
    clean = sanitiser.field_text("notes")
    assert clean is not None
    passage = Passage("user", ("For Zyrimane: ", clean))
    content = passage.message.content
    marks = [(mark.kind, content[mark.start : mark.end]) for mark in review([passage], sanitiser).marks]
    assert ("stays", "Oskarina") in marks and ("tag", "[PHONE_1]") in marks and ("open", ", Oskarina") in marks
    assert not any("Zyrimane" in text for _, text in marks)


def test_a_value_that_the_person_has_opened_does_not_look_personal() -> None:
    """They have decided about it."""
    opened = profile_from({"employer": "Thimblewick Oskarina", "policy": {"employer": "open"}})
    assert ("stays", "Thimblewick") not in reviewed("We are at Thimblewick Oskarina.", opened)[1]


def test_without_the_sanitiser_nothing_is_marked() -> None:
    """All of it leaves, after a warning."""
    assert reviewed(TEXT, Profile(), "off") == (TEXT, [])


@given(
    st.text("ab ", max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(MarkKind)), max_size=6),
)
@examples()
def test_the_pieces_of_a_message_are_the_message(text: str, spans: list[tuple[int, int, MarkKind]]) -> None:
    """Each piece has the kinds of exactly the marks that cover it."""
    marks = [Mark(0, a, b, kind) for a, b, kind in spans if a < b <= len(text)]
    at = 0
    for piece, kinds in pieces_of(text, marks):
        assert sorted(kinds) == sorted(mark.kind for mark in marks if mark.start <= at and at + len(piece) <= mark.end)
        at += len(piece)
    assert "".join(piece for piece, _ in pieces_of(text, marks)) == text


# ---- words that the person hides


@pytest.mark.parametrize("word", ["Vorbex", "kitchen", "It", "in", "&", "Vorbex lamp", "yes", "7"])
def test_any_word_becomes_a_tag_for_this_run(word: str) -> None:
    """Also a short or an everyday one, wherever it is written as a word of its own."""
    text = f"{TEXT} Is it 7 & black, yes or no?"
    profile = Profile().with_private_words([word])
    sanitiser = Sanitiser(profile, own=[text])
    clean = sanitiser.clean(text).text
    assert sanitiser.tags["[PRIVATE_1]"] == word and not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", clean)


@pytest.mark.parametrize(
    ("word", "text", "sent"),
    [
        ("123", "The PIN is 123, not 1234.", "The PIN is [PRIVATE_1], not 1234."),
        ("100%", "We are 100% sure.", "We are [PRIVATE_1] sure."),
        ("Ada", "Ada likes jazz, ada juga teh.", "[PRIVATE_1] likes jazz, ada juga teh."),
        ("Belum", "My aunt Belum knows.", "My aunt [PRIVATE_1] knows."),
        ("Ze\u0301", "Call Z\u00e9 now, please.", "Call [PRIVATE_1] now, please."),
        ("X\u200bi", "Xi and Xin came.", "[PRIVATE_1] and Xin came."),
        ("\u0930", "\u0930\u093e\u092e\u0942 \u0930 came.", "\u0930\u093e\u092e\u0942 [PRIVATE_1] came."),
    ],
)
def test_a_word_without_variants_is_hidden_as_it_is_written(word: str, text: str, sent: str) -> None:
    """Three digits, a word that is everywhere, another normal form, an invisible sign, a letter of another script."""
    assert Sanitiser(Profile().with_private_words([word]), own=[text]).clean(text).text == sent


def test_names_with_combining_marks_are_whole_words() -> None:
    """They look personal as a whole, not in parts."""
    assert found_in("a gift for \u0930\u093e\u092e\u0942 please") == ["\u0930\u093e\u092e\u0942"]


def test_a_hidden_word_is_a_tag_in_the_next_look(pipeline: RunPipeline) -> None:
    """The profile's file and the profile of the preview stay as they are; the digest is another."""
    before = looked_at(pipeline)
    after = pipeline.prepare(before.sourced, pipeline.read_profile(), ["Quillon"])
    assert "Quillon" in before.prepared.outgoing.text and "Quillon" not in after.prepared.outgoing.text
    assert "[PRIVATE_1]" in after.prepared.outgoing.text and after.hidden == ("Quillon",)
    assert after.digest != before.digest and PRIVATE_WORDS not in after.profile.fields


WORDS = st.lists(
    st.text(min_size=1, max_size=12).filter(lambda word: word.strip() == word and word.isprintable()), max_size=4
)


@given(
    st.dictionaries(st.sampled_from(["name", "notes", "city"]), st.text("aé \"\\#[]=", min_size=1, max_size=9)),
    WORDS, WORDS, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]),
)  # fmt: skip
@examples()
def test_words_are_added_to_any_profile_and_nothing_else_changes(
    fields: dict[str, str], there: list[str], words: list[str], has_table: bool, end: str, mark: str
) -> None:
    """Every line that was there is there, in its order, comments and line ends too."""
    lines = [
        "# mine",
        *(f"{name} = {json.dumps(value, ensure_ascii=False)}  # {name}" for name, value in fields.items()),
    ]
    lines += [f"{PRIVATE_WORDS} = {json.dumps(there, ensure_ascii=False)}"] if there else []
    lines += ["", "# choices", "[policy]", "# none yet"] if has_table else []
    raw = (mark + end.join(lines) + end).encode()
    edited = with_private_words(raw, words)
    before, after = tomllib.loads(raw.decode().lstrip("\ufeff")), tomllib.loads(edited.decode().lstrip("\ufeff"))
    have = before.pop(PRIVATE_WORDS, [])
    assert set(after.pop(PRIVATE_WORDS, [])) == {*have, *words} and after == before
    assert edited.startswith(mark.encode())
    kept, old = (
        [line for line in text.decode().lstrip("\ufeff").split(end) if not line.startswith(PRIVATE_WORDS)]
        for text in (edited, raw)
    )
    assert kept == old and with_private_words(edited, words) == edited


def test_the_profiles_file_keeps_its_mode(tmp_path: Path) -> None:
    """A link stays a link."""
    written(tmp_path, {"real.toml": '# me\nname = "Sari"\n'})
    (tmp_path / "real.toml").chmod(0o640)
    (tmp_path / "profile.toml").symlink_to("real.toml")
    add_private_words(str(tmp_path / "profile.toml"), ["Oskarina"])
    assert (tmp_path / "real.toml").read_text() == '# me\nname = "Sari"\nprivate_words = ["Oskarina"]\n'
    assert (tmp_path / "real.toml").stat().st_mode & 0o777 == 0o640 and (tmp_path / "profile.toml").is_symlink()


@pytest.mark.parametrize("empty", ["[]", '""', '[" "]', "[\n]"])
def test_an_empty_list_is_extended(empty: str) -> None:
    """Blank words are none, and are not added."""
    edited = with_private_words(f"private_words = {empty}\n[policy]\n".encode(), ["Quillon", " "])
    assert [text for text in tomllib.loads(edited.decode())[PRIVATE_WORDS] if text.strip()] == ["Quillon"]
    assert with_private_words(b"", [" ", "\t"]) == b""


def test_a_profile_that_is_read_only_or_full_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why."""
    profile = tmp_path / "profile.toml"
    profile.write_text("".join(f'f{i} = "x"\n' for i in range(MAX_FIELDS)))
    with pytest.raises(ProfileError, match=f"{MAX_FIELDS + 1} fields, but at most {MAX_FIELDS} are allowed"):
        add_private_words(str(profile), ["Quillon"])
    monkeypatch.setattr("os.access", lambda path, mode: False)  # tests may run as root, who may write anything
    profile.write_text('name = "Sari"\n')
    with pytest.raises(ProfileError, match="read-only; make it writable to change it here"):
        add_private_words(str(profile), ["Quillon"])
    assert profile.read_text() == 'name = "Sari"\n'


def test_a_profile_that_opens_these_words_is_refused() -> None:
    """They would leave."""
    raw = b'private_words = ["a"]\n[policy]\nprivate_words = "open"\n'
    with pytest.raises(ProfileError, match=r"\[policy\] opens private_words; remove that line"):
        with_private_words(raw, ["Oskarina"])
    assert parse(raw).with_private_words(["b"]).fields[PRIVATE_WORDS].policy is FieldPolicy.SECRET


# ---- the questions at the terminal


STAYS = [LooksPersonal("Thimblewick", Reason.NAME), LooksPersonal("88213377", Reason.NUMBER)]
TYPED = "Our friends Thimblewick and Oskarina like chess. Their code is 88213377. p"


@pytest.mark.parametrize(
    ("typed", "words", "always"),
    [
        ("1", ["Thimblewick"], False), ("1 2", ["Thimblewick", "88213377"], False),
        ("2,1", ["88213377", "Thimblewick"], False),
        ("p 1", ["Thimblewick"], True), ("P 1 2", ["Thimblewick", "88213377"], True), ("p CHESS", ["chess"], True),
        ("friends", ["friends"], False), ("88213377", ["88213377"], False), ("their code", ["Their code"], False),
        ("p", ["p"], False),
    ],
)  # fmt: skip
def test_a_number_a_word_or_p_before_them_names_what_to_hide(typed: str, words: list[str], always: bool) -> None:
    """A word is taken as the prompt writes it."""
    answer = answer_of(typed, STAYS, TYPED)
    assert (list(answer.words), answer.always, answer.unknown) == (words, always, "")


@pytest.mark.parametrize("typed", ["3", "0", "nobody", "p nobody", "1 7"])
def test_what_is_neither_is_asked_again(typed: str) -> None:
    """Nothing is hidden by a slip."""
    answer = answer_of(typed, STAYS, TYPED)
    assert answer.unknown and not answer.words


def test_a_word_is_taken_in_the_case_in_which_it_is_typed_if_it_is_written_so() -> None:
    """Otherwise in another."""
    assert answer_of("al", STAYS, "Al said al knows").words == ("al",)
    assert answer_of("AL", STAYS, "Al said al knows").words == ("Al",)


def test_the_persons_own_words_are_those_between_tags() -> None:
    """A tag is no word of theirs, and words on its two sides are no phrase."""
    sanitiser = Sanitiser(profile_from({"name": "Sari"}))
    passage = Passage("user", ("Sheet: ", sanitiser.clean("I am Sari today")))
    own = review([passage], sanitiser).words_in([passage.message])
    assert own.split() == ["I", "am", "today"] and not written_in(own, "NAME") and not written_in(own, "am today")
    assert written_in(own, "i") == "I" and not written_in(own, "Sheet")


@pytest.fixture
def pipeline(tiny_split: Callable[..., Path], tmp_path: Path) -> RunPipeline:
    written(tmp_path, {"words.txt": TEXT, "profile.toml": '# mine\nname = "Sari"\n'})
    source = SheetSource(None, prompt_file=str(tmp_path / "words.txt"))
    settings_ = RunSettings(SamplingParams(0.0))
    return RunPipeline(device_of(tiny_split() / "edge"), source, None, str(tmp_path / "profile.toml"), settings_)


def looked_at(pipeline: RunPipeline) -> Preview:
    return pipeline.prepare(pipeline.find(""), pipeline.read_profile())


class Person:
    """Types one line after another, and remembers what was shown."""

    def __init__(self, *lines: str | None) -> None:
        self.lines, self.prompts, self.questions, self.notices = list(lines), list[str](), list[str](), list[str]()

    def __call__(self, preview: Preview, question: str) -> str | None:
        self.prompts.append(preview.prepared.outgoing.text)
        self.questions.append(question)
        return self.lines.pop(0)

    def looks_at(self, pipeline: RunPipeline) -> Preview:
        return LastLook(pipeline, self, self.notices.append).at(looked_at(pipeline), pipeline.read_profile())


def test_the_person_hides_words_until_they_send_the_rest(pipeline: RunPipeline, tmp_path: Path) -> None:
    """One for this run, one for ever, one that did not look personal; each look shows the prompt as it is now."""
    person = Person("1", "xyzzy", "", "p 1", "kitchen", "please", "u", "Y")
    sent = person.looks_at(pipeline).prepared.outgoing.text
    assert "Compare the [PRIVATE_1] lamp with [PRIVATE_2] glass, please." in sent and "our small [PRIVATE_3]." in sent
    assert "1  Vorbex (" in person.questions[0] and "1  Quillon (" in person.questions[1]
    assert [("Vorbex" in prompt) for prompt in person.prompts] == [True, *7 * [False]]
    profile = tmp_path / "profile.toml"
    assert person.notices == [
        "“Vorbex” is hidden in this run",
        "“xyzzy” is not in your words of this prompt; type one of the choices, or a word as it is written above",
        f"“Quillon” is hidden from now on: private_words in {profile}",
        "“kitchen” is hidden in this run",
        "“please” is hidden in this run",
    ]
    assert profile.read_text() == '# mine\nname = "Sari"\nprivate_words = ["Quillon"]\n'


def test_an_answer_that_sends_is_never_the_empty_one(pipeline: RunPipeline) -> None:
    """Enter asks again; what can be typed is named, and only that."""
    person = Person("", "", "y")
    person.looks_at(pipeline)
    assert (
        len(set(person.questions)) == 1
        and "y               send the prompt, with these words in it" in person.questions[0]
    )
    assert "show again" not in person.questions[0]
    person = Person("1 2", "y")
    person.looks_at(pipeline)
    assert "Nothing else looks personal." in person.questions[1] and "p WORD" in person.questions[1]
    assert "p 1" not in person.questions[1] and "show again" in person.questions[1]


@pytest.mark.parametrize("line", ["n", "No", None])
def test_the_person_can_send_nothing(pipeline: RunPipeline, line: str | None) -> None:
    """A terminal that is closed is no consent either."""
    with pytest.raises(Declined, match="nothing was sent"):
        Person(line).looks_at(pipeline)


def test_nothing_is_asked_where_nothing_looks_personal(pipeline: RunPipeline, tmp_path: Path) -> None:
    """There is nothing to decide."""
    written(tmp_path, {"words.txt": "A gift for my mother, please."})
    person = Person()
    assert person.looks_at(pipeline).hidden == () and person.questions == []


def test_without_a_profile_a_word_is_hidden_in_this_run_only(pipeline: RunPipeline) -> None:
    """The question does not offer more, and an answer that asks for it says so."""
    pipeline.profile_file = None
    person = Person("p 1", "y")
    preview = LastLook(pipeline, person, person.notices.append).at(looked_at(pipeline), VersionedProfile(Profile()))
    assert "Vorbex" not in preview.prepared.outgoing.text and "always" not in person.questions[0]
    assert "no profile" in person.notices[0]


# ---- where no person looks


def test_strict_refuses_while_such_words_are_left(pipeline: RunPipeline) -> None:
    """By their number; the error has none of them. At the terminal it does not offer to send them."""
    pipeline.settings = RunSettings(SamplingParams(0.0), strict=True)
    preview = looked_at(pipeline)
    with pytest.raises(PrivacyRefused, match="--strict: 2 of your words or numbers may be personal") as refused:
        pipeline.refuse_what_stays(preview)
    assert "Vorbex" not in str(refused.value) and "Quillon" not in str(refused.value)
    pipeline.refuse_what_stays(pipeline.prepare(preview.sourced, pipeline.read_profile(), ["Vorbex", "Quillon"]))
    person = Person("y", "1 2", "y")
    pipeline.refuse_what_stays(person.looks_at(pipeline))
    assert ["send the prompt" in question for question in person.questions] == [False, False, True]


@pytest.mark.process
def test_a_dry_run_lists_them_and_json_has_them_as_data(tiny_split: Callable[..., Path], tmp_path: Path) -> None:
    """The list is on stderr: stdout has exactly the text. With --strict, a run is refused before any cloud is asked."""
    written(tmp_path, {"words.txt": TEXT})
    command = ["edge_main.py", "--ckpt_dir", str(tiny_split() / "edge"), "--prompt_file", str(tmp_path / "words.txt")]
    shown = run_main(*command, "--dry_run")
    assert "would leave as it is: Vorbex (" in shown.stderr and " · Quillon (" in shown.stderr
    assert "looks personal" not in shown.stdout and TEXT in shown.stdout
    data = json.loads(run_main(*command, "--dry_run", "--json").stdout)
    assert [each["text"] for each in data["stays"]] == ["Vorbex", "Quillon"]
    assert TEXT in data["text"] and data["stays"][1] == {"text": "Quillon", "reason": "a capitalised word", "count": 1}
    refused = run_main(*command, "--cloud", "tcp://127.0.0.1:9", "--strict", "--deadline", "5")
    assert refused.returncode == PrivacyRefused.exit_code and "--strict: 2 of your words" in refused.stderr
    assert "Vorbex" not in refused.stderr
    wrong = run_main(*command, "--dry_run", "--strict", "--sanitise", "off")
    assert wrong.returncode == UsageError.exit_code and "--strict and --sanitise off" in wrong.stderr


@pytest.mark.process
def test_a_person_at_a_terminal_hides_words_before_anything_leaves(
    tiny_split: Callable[..., Path], tmp_path: Path
) -> None:
    """With a real cloud: the prompt that it can read has tags in their place."""
    written(tmp_path, {"words.txt": TEXT, "profile.toml": 'name = "Sari"\n'})
    with cloud(tiny_split() / "cloud") as running:
        command = [sys.executable, str(ROOT / "edge_main.py"), "--ckpt_dir", str(tiny_split() / "edge"), "--cloud"]
        command += [running.address, "--prompt_file", str(tmp_path / "words.txt"), "--max_gen_len", "2"]
        command += ["--profile_file", str(tmp_path / "profile.toml"), "--history", str(tmp_path / "history.jsonl")]
        code, shown = at_a_terminal(command, "y\n", "1\n", "p 1\n", "\n", "y\n")
        nothing, declined = at_a_terminal(command, "y\n", "n\n")
    assert code == 0, shown
    assert "These look personal" in shown and "Quillon (" in shown
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])["tags"] == [
        "[PRIVATE_1]",
        "[PRIVATE_2]",
    ]
    assert tomllib.loads((tmp_path / "profile.toml").read_text())[PRIVATE_WORDS] == ["Quillon"]
    assert nothing == Declined.exit_code and "nothing was sent" in declined
