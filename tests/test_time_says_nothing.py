"""What sanitising and the gate do depends on the person's own text and profile only, never on whether a sheet guesses.

A provider that writes a guess into its sheet a thousand times, around every place of a field, and looks at the clock
must learn nothing from how long the device takes. Here what is done is counted: characters searched, calls, and steps
of the interpreter must be the same for a right guess and for a wrong one of the same shape. A gate that reads the
sheet's words around each field, as there once was one, is kept here and caught by the same count.

A call into C is one step, however long it takes. So SOAK=1 looks at the clock, too, as such a provider would: over
sockets, between a real cloud and a real device.

Counted is what a third party's or the provider's sheet makes the device do. In a sheet that is the person's own file,
the person's values are looked for, to warn of them; no cloud sees when that begins.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
import zmq
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import edge_main
import llama.privacy
from llama import wire
from llama.chat import ChatFormat, Llama3Format
from llama.errors import CloudRefused, SplitLlamaError
from llama.privacy import gate
from llama.privacy.gate import Outgoing
from llama.privacy.gate_reader import ReadText
from llama.privacy.merging import Passage
from llama.privacy.normalised import NormalisedText, compact
from llama.privacy.preparing import prepare
from llama.privacy.profile import Profile, profile_from
from llama.privacy.sanitiser import Sanitiser
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from llama.wire import ErrorCode
from tests.canaries import as_toml
from tests.processes import ROOT, cloud
from tests.support import Peer
from tests.volumes import SOAK, examples

Splits = Callable[..., Path]

CONTEXT = 1 << 17
PRIVACY = str(Path(llama.privacy.__file__).parent)
# By field: what the person declares, which is the right guess, and a wrong one of the same shape.
GUESSES = {
    "name": ("Sari Wulandari", "Dewi Rahmawati"),
    "phone": ("0812-3456-7890", "0857-2913-6648"),
    "email": ("sari.wulandari@example.com", "dewi.rahmawati@example.com"),
    "nik": ("3273015204910003", "3174096507880006"),
    "birth_date": ("12 April 1991", "27 March 1984"),
    "address": ("Jl. Kapten Muslihat No. 21, Bogor 16121", "Jl. Mayjen Sudirman No. 47, Medan 20124"),
    "card": ("4111 1111 1111 1111", "5500 0055 5555 5559"),
    "diagnosis": ("schizophrenia", "endometriosis"),
    "religion": ("Catholic", "Buddhist"),
    "income": ("Rp 12.700.000", "Rp 38.450.000"),
    "employer": ("PT Nusantara Kopi Abadi", "PT Mandalika Susu Utama"),
}
OPEN = {"city": "Bandung", "interests": "tea, hiking", "headcount": 4, "notes": "For Sari, who was born in 1991."}
SARI = {**{name: right for name, (right, _) in GUESSES.items()}, **OPEN}
EACH_GUESS = pytest.mark.parametrize("name", GUESSES)


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> ChatFormat:
    return Llama3Format(tokenizer)


# ---- the count


class Work(NamedTuple):
    """What was done.

    Attributes:
        characters: of the texts that the sanitiser and the gate have searched.
        calls: that the code of ``llama.privacy`` has made, of functions written in Python and in C.
        steps: instructions of the interpreter in that code; every comparison is one or more.
        ended: how, without a word of the prompt.
    """

    characters: int
    calls: int
    steps: int
    ended: str


class Counting:
    """Counts what ``llama.privacy`` does while it is entered."""

    def __init__(self) -> None:
        self.characters = self.calls = self.steps = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count."""
        before = sys.gettrace(), sys.getprofile()
        with ExitStack() as stack:
            for kind in (NormalisedText, ReadText):
                stack.enter_context(patch.object(kind, "__init__", self._searching(kind.__init__)))
            gc.disable()  # who is told of a collection would be called in the middle of anything
            sys.setprofile(self._on_call)
            sys.settrace(self._on_frame)
            try:
                yield
            finally:
                sys.settrace(before[0])
                sys.setprofile(before[1])
                gc.enable()

    def _searching(self, init: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
        def counted(text: Any, characters: str) -> None:
            self.characters += len(characters)
            init(text, characters)

        return counted

    def _on_call(self, frame: FrameType, event: str, _: Any) -> None:
        caller = frame.f_back if event == "call" else frame if event == "c_call" else None
        self.calls += caller is not None and _is_of_privacy(caller)

    def _on_frame(self, frame: FrameType, _: str, __: Any) -> Any:
        if not _is_of_privacy(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_step

    def _on_step(self, _: FrameType, event: str, __: Any) -> Any:
        self.steps += event == "opcode"
        return self._on_step


def _is_of_privacy(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PRIVACY)


Working = Callable[[SourcedPrompt, Mapping[str, Any]], Work]


@pytest.fixture(scope="module")
def work(chat: ChatFormat, tokenizer: Tokenizer) -> Working:
    """``work(found, profile)``: what is done with a sheet, by a device that has seen the person's profile before."""

    def prepared(found: SourcedPrompt, profile: Profile) -> str:
        try:
            prepare(found, profile, "schema", chat, tokenizer, CONTEXT)
        except SplitLlamaError as err:
            return f"{type(err).__name__}: {err}"
        return "ready"

    def counted(found: SourcedPrompt, profile: Mapping[str, Any]) -> Work:
        assert isinstance(found.prompt, Sheet)
        person, counting = profile_from(profile), Counting()
        # The characters of all that leaves of the person are folded now, and no word of this sheet has been seen.
        prepared(replace(found, prompt=replace(found.prompt, questions=("What?",), system="", examples=())), person)
        with counting():
            ended = prepared(found, person)
        return Work(counting.characters, counting.calls, counting.steps, ended)

    return counted


# ---- a gate as there once was one

WINDOW = 200  # characters before and after a border
passed = gate.check


def passed_by_an_old_gate(
    passages: Sequence[Passage], sanitiser: Sanitiser, chat: ChatFormat, tokenizer: Tokenizer
) -> Outgoing:
    """Today's gate, and a search of what stands around each piece of the person's for what a sheet may complete."""
    outgoing = passed(passages, sanitiser, chat, tokenizer)
    encoded = chat.encode([passage.message for passage in passages])
    for passage, offset in zip(passages, encoded.offsets, strict=True):
        assert offset is not None
        for start, end in passage.own_spans:
            first, last = max(0, offset + start - WINDOW), offset + end + WINDOW
            for found in sanitiser.secrets.find(outgoing.text[first:last]):
                a, b = first + found.start, first + found.end
                own = outgoing.text[max(a, offset + start) : min(b, offset + end)]
                assert len(compact(own)) < max(8, 0.75 * len(compact(outgoing.text[a:b])))
    return outgoing


# ---- sheets that guess


def guessing(guess: str, places: int = 60, guesses: int = 900) -> Sheet:
    """Asks for the city only, and says the guess before, between and after its places."""
    few = f"{guess} " * (guesses // places)
    return Sheet((f"{few}{{city}} " * places + guess,), asks_for=("city",))


class Guess(NamedTuple):
    """Some of a guess, from one of its quarters to another, in one way to write it."""

    start: int
    end: int
    way: str

    def of(self, guess: str) -> str:
        """As a sheet says it."""
        written = WAYS[self.way](guess)
        return written[len(written) * self.start // 4 : len(written) * self.end // 4]


WAYS: Mapping[str, Callable[[str], str]] = {
    "as declared": str,
    "loud": str.upper,
    "solid": lambda guess: "".join(filter(str.isalnum, guess)),
    "spread": " ".join,
    "backwards": lambda guess: guess[::-1],
}
Text = tuple[str | Guess, ...]


@dataclass(frozen=True)
class Draft:
    """A sheet in which the guess is still to be put."""

    question: Text
    system: Text
    example: tuple[Text, Text] | None
    asks_for: tuple[str, ...]
    language: str
    party: str

    def found(self, guess: str) -> SourcedPrompt:
        """The sheet that guesses this."""

        def said(text: Text) -> str:
            return "".join(part if isinstance(part, str) else part.of(guess) for part in text)

        examples = () if self.example is None else ((said(self.example[0]), said(self.example[1])),)
        sheet = Sheet((said(self.question),), system=said(self.system), examples=examples, asks_for=self.asks_for,
                      language=self.language)  # fmt: skip
        return SourcedPrompt(sheet, f"vendor:{self.party}" if self.party else "provider", "spy", self.party, "Be kind.")


def texts(asked: Sequence[str]) -> st.SearchStrategy[Text]:
    """Words, guesses and places of fields, in any order, some of it many times."""
    ways = st.sampled_from(sorted(WAYS))
    places = st.sampled_from([f"{{{name}}}" for name in (*asked, "unasked")])
    words = st.sampled_from([" ", "\n", ", ", "Is it one of these? ", "[NAME_1]", "[RELIGION_{headcount}]", "NAME_2"])
    whole = ways.map(lambda way: (Guess(0, 4, way),))
    some = st.tuples(st.integers(0, 3), ways).map(lambda g: (Guess(g[0], 4, g[1]),))
    around = st.tuples(places, ways).map(lambda g: (Guess(0, 4, g[1]), g[0], Guess(0, 4, g[1])))
    cut = st.tuples(st.integers(1, 3), places, ways).map(lambda g: (Guess(0, g[0], g[2]), g[1], Guess(g[0], 4, g[2])))
    parts: st.SearchStrategy[Text] = st.one_of(whole, some, around, cut, places.map(lambda p: (p,)),
                                               words.map(lambda w: (w,)))  # fmt: skip
    passages = st.tuples(st.lists(parts, min_size=1, max_size=5), st.sampled_from([1, 2, 30]))
    return st.lists(passages, min_size=1, max_size=3).map(
        lambda some: tuple(part for parts, times in some for part in [*itertools.chain(*parts)] * times)
    )


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Sheets of all kinds: what they ask for, whose they are, and where they guess."""
    asked = tuple(draw(st.lists(st.sampled_from(sorted(SARI)), unique=True, max_size=5)))
    reported: st.SearchStrategy[Text] = st.one_of(st.just(()), texts(asked))
    example = draw(st.none() | st.tuples(texts(asked), texts(asked)))
    return Draft(draw(texts(asked)), draw(reported), example, asked, draw(st.sampled_from(["en", "id"])),
                 draw(st.sampled_from(["", "spy"])))  # fmt: skip


def test_a_wrong_guess_has_the_shape_of_the_right_one() -> None:
    """Letters for letters and digits for digits, or the count would differ for another reason."""
    for right, wrong in GUESSES.values():
        shapes = ["".join("a" if c.isalpha() else "0" if c.isdigit() else c for c in guess) for guess in (right, wrong)]
        assert shapes[0] == shapes[1] and right != wrong


# ---- what is counted


@pytest.mark.long
@EACH_GUESS
def test_a_right_guess_is_as_much_work_as_a_wrong_one(name: str, work: Working) -> None:
    """Nine hundred times around sixty places of a field, to a person with one secret and to one with eleven."""
    for profile in ({name: SARI[name], **OPEN}, SARI):
        right, wrong = (
            work(SourcedPrompt(guessing(guess), "vendor:spy", "spy", "spy"), profile) for guess in GUESSES[name]
        )
        assert right == wrong
        assert right.ended == "ready" and right.characters > 50 and right.calls > 1000 and right.steps > 10_000


@pytest.mark.long
@examples(0.4)
@given(drafts(), st.sampled_from(sorted(GUESSES)))
def test_wherever_a_sheet_guesses_a_right_guess_is_as_much_work_as_a_wrong_one(
    work: Working, draft: Draft, name: str
) -> None:
    """In system text, examples and questions, whole, cut in two by a field, many times; whatever it asks for."""
    right, wrong = (work(draft.found(guess), SARI) for guess in GUESSES[name])
    assert right == wrong


def test_the_persons_own_text_changes_the_count(work: Working) -> None:
    """What a person writes is searched, and what is found there is work: a count that stays the same counts nothing."""
    found = SourcedPrompt(guessing("Catholic"), "vendor:spy", "spy", "spy")
    plain, longer, telling = (
        work(found, {**SARI, "notes": notes})
        for notes in ("Tea for everybody.", "Tea for everybody today.", "Tea for a Catholic")
    )
    assert plain.characters < longer.characters and plain.steps < longer.steps
    assert len("Tea for everybody.") == len("Tea for a Catholic")
    assert plain.calls < telling.calls and plain.steps < telling.steps


@EACH_GUESS
def test_a_gate_that_reads_the_sheets_words_is_caught(
    name: str, work: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same count of the same sheets, with the search of what stands around each field that there once was."""
    monkeypatch.setattr(gate, "check", passed_by_an_old_gate)
    right, wrong = (
        work(
            SourcedPrompt(guessing(guess, places=6, guesses=60), "vendor:spy", "spy", "spy"), {name: SARI[name], **OPEN}
        )
        for guess in GUESSES[name]
    )
    assert right.characters == wrong.characters > 1000
    assert right.calls > wrong.calls and right.steps > wrong.steps
    assert right.ended == wrong.ended == "ready"


@pytest.mark.long
def test_random_sheets_catch_it_too(work: Working, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold guesses where such a gate would look for them."""
    monkeypatch.setattr(gate, "check", passed_by_an_old_gate)
    few = settings(examples(0.4), phases=[Phase.generate], database=None)
    for name in ("religion", "phone"):
        right, wrong = GUESSES[name]

        def differs(draft: Draft, right: str = right, wrong: str = wrong) -> bool:
            return work(draft.found(right), SARI)[:3] != work(draft.found(wrong), SARI)[:3]

        assert find(drafts(), differs, settings=few)


# ---- by the clock

BLOCKS = 150  # rounds with each gate, each person and each guess
CREEDS = ("Hindu", "Islam")  # of two people; each is a right guess for one and a wrong one for the other
LEAST_P = 0.001  # two samples that chance would make so different less often are told apart
Gate = Literal["today's", "old"]
GATES: tuple[Gate, ...] = ("today's", "old")


class Round(NamedTuple):
    """Somebody with a creed runs a sheet that guesses one, past a gate."""

    gate: Gate
    creed: str
    guess: str


def p_value(some: Sequence[float], others: Sequence[float]) -> float:
    """How often chance alone would make two samples so different: Mann and Whitney's test, by the normal distribution,
    two-sided, with corrections for ties and continuity.
    """
    times = Counter([*some, *others])
    rank, before = dict[float, float](), 0
    for value in sorted(times):
        rank[value] = before + (times[value] + 1) / 2
        before += times[value]
    n, m = len(some), len(others)
    u = sum(rank[value] for value in some) - n * (n + 1) / 2
    ties = sum(t**3 - t for t in times.values()) / ((n + m) * (n + m - 1))
    deviation = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return math.erfc(max(0.0, abs(u - n * m / 2) - 0.5) / deviation / math.sqrt(2)) if deviation else 1.0


def test_the_rank_test_gives_the_probabilities_of_the_literature() -> None:
    """SciPy's own example, which it computes to 0.1113, and samples with nothing but ties."""
    ages = [19, 22, 16, 29, 24], [20, 11, 17, 12]
    assert p_value(*ages) == pytest.approx(0.11134688653314041)
    assert p_value(*reversed(ages)) == pytest.approx(p_value(*ages))
    assert p_value([1] * 9, [1] * 9) == 1
    assert p_value(range(100), range(50, 150)) < 1e-9 < LEAST_P < p_value(range(100), range(5, 105))


class Heard(NamedTuple):
    """When a hostile cloud heard from a device, in milliseconds since it had sent the sheet."""

    sheet: str
    first: float
    prompt: float


def heard(front: zmq.Socket[bytes], behind: Peer, device: subprocess.Popen[bytes]) -> list[Heard]:
    """All rounds until the device has ended.

    What it asks is answered by the cloud behind, but for its first request of a prompt: by then all is known.
    """
    rounds, sheet, sent, first = list[Heard](), "", 0, 0
    while device.poll() is None:
        if not front.poll(100):
            continue
        identity, empty, header, *rows = front.recv_multipart()
        now, request = time.perf_counter_ns(), msgspec.msgpack.decode(header)
        first = first or now
        if request["type"] == "open":
            answer = wire.encode(wire.Error(ErrorCode.NOT_SERVED, "thank you"))
            rounds.append(Heard(sheet, (first - sent) / 1e6, (now - sent) / 1e6))
        else:
            behind.send(header, *rows)
            answer = behind.receive_bytes()
        if request["type"] == "fetchsheet":
            sheet, sent, first = request["prompt_id"], time.perf_counter_ns(), 0
        front.send_multipart([identity, empty, answer])
    return rounds


def ask_again_and_again(ckpt_dir: str, address: str, profiles: str) -> None:
    """The device, in a process of its own: runs edge_main with --yes, once for each of the rounds on stdin."""
    for gate_, creed, guess in json.load(sys.stdin):
        gate.check = passed_by_an_old_gate if gate_ == "old" else passed
        with suppress(CloudRefused):
            edge_main.main(
                ckpt_dir, address, prompt_id=f"spy/{guess}".lower(), profile_file=f"{profiles}/{creed}.toml", yes=True,
                threads=1,
            )  # fmt: skip


@dataclass(frozen=True)
class Spied:
    """What was heard of each gate's rounds, by whether the guess was right."""

    right: Mapping[Gate, Sequence[Heard]]
    wrong: Mapping[Gate, Sequence[Heard]]


@pytest.fixture(scope="module")
def spied(tiny_split: Splits, tmp_path_factory: pytest.TempPathFactory) -> Spied:
    """All rounds, in blocks of one of each in random order; those of the first block, when all is new, are left out."""
    split, directory = tiny_split(), tmp_path_factory.mktemp("spied")
    sheets, profiles = directory / "sheets", directory / "profiles"
    for path in (sheets / "spy", profiles):
        path.mkdir(parents=True)
    (sheets / "system.txt").write_text("Be kind.")
    for creed in CREEDS:
        sheet = guessing(creed)
        (sheets / "spy" / f"{creed.lower()}.toml").write_text(
            f"questions = {json.dumps(sheet.questions)}\nasks_for = {json.dumps(sheet.asks_for)}\n"
        )
        (profiles / f"{creed}.toml").write_text(as_toml({**SARI, "religion": creed}))
    chance, one_of_each = random.Random(5), [Round(*each) for each in itertools.product(GATES, CREEDS, CREEDS)]
    rounds = [each for _ in range(BLOCKS + 1) for each in chance.sample(one_of_each, len(one_of_each))]
    flags = ("--sheet_dir", sheets, "--record_file", directory / "runs.sqlite", "--max_seq_len", 8192, "--threads", 1)
    with cloud(split / "cloud", *flags, "--max_batch_size", 1) as behind, Peer(behind.address) as peer:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as front, (directory / "err").open("wb") as err:
            port = front.bind_to_random_port("tcp://127.0.0.1")
            arguments = (str(split / "edge"), f"tcp://127.0.0.1:{port}", str(profiles))
            program = "import sys; from tests.test_time_says_nothing import ask_again_and_again as ask; "
            with subprocess.Popen(
                [sys.executable, "-c", program + "ask(*sys.argv[1:])", *arguments], cwd=ROOT, stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=err,
            ) as device:  # fmt: skip
                assert device.stdin is not None
                device.stdin.write(json.dumps(rounds).encode())
                device.stdin.close()
                try:
                    answered = heard(front, peer, device)
                finally:
                    device.kill()
    assert device.returncode == 0, (directory / "err").read_text()
    assert [each.sheet for each in answered] == [f"spy/{each.guess.lower()}" for each in rounds]
    kept = list(zip(rounds, answered, strict=True))[len(one_of_each) :]
    of_each = [
        {gate_: [a for r, a in kept if r.gate == gate_ and (r.creed == r.guess) is right] for gate_ in GATES}
        for right in (True, False)
    ]
    return Spied(*of_each)


@pytest.mark.skipif(not SOAK, reason="the clock is looked at by make soak")
@pytest.mark.parametrize("gate_", GATES)
def test_by_the_clock_a_hostile_cloud_tells_a_right_guess_only_past_an_old_gate(gate_: Gate, spied: Spied) -> None:
    """From its sheet, which guesses the person's creed 900 times, to the device's next request and to the prompt's
    first. Of two people with two creeds, so that each guess is right as often as it is wrong.
    """
    right, wrong = spied.right[gate_], spied.wrong[gate_]
    assert len(right) == len(wrong) == 2 * BLOCKS
    until: dict[str, Callable[[Heard], float]] = {
        "next request": lambda each: each.first, "first of the prompt": lambda each: each.prompt,
    }  # fmt: skip
    for what, at in until.items():
        some, others = [*map(at, right)], [*map(at, wrong)]
        p = p_value(some, others)
        print(f"\n{gate_} gate, from the sheet to the {what}: {statistics.median(some):.2f} ms with a right guess, "
              f"{statistics.median(others):.2f} with a wrong one, {len(some)} rounds each: p = {p:.2g}")  # fmt: skip
        assert (p < LEAST_P) == (gate_ == "old")
