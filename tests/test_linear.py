"""Claims about work: who doubles a text doubles the work, and not more, whatever the text is.

The patterns are the program's own, found in its modules: a new one is tried as the others are. The texts are made from
the patterns, and by a search for whatever makes the most work.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from llama import sheets, toml, wire
from llama.chat import Message
from llama.cloud import query
from llama.cloud.prompt_leak import SystemPrompt
from llama.errors import PromptError
from llama.privacy.cautions import cautions
from llama.privacy.gate import _PieceReader
from llama.privacy.gate_clues import clues_of
from llama.privacy.merging import own_words, tags_composed
from llama.privacy.normalised import NormalisedText
from llama.privacy.profile import Profile, profile_from
from llama.privacy.recognisers import RECOGNISERS, hits_in
from llama.privacy.recognisers.recogniser import Recogniser
from llama.privacy.restoring import Restorer
from llama.privacy.review import review
from llama.privacy.sanitiser import Sanitiser
from llama.prompt import OwnWords
from llama.text.printable import printable
from llama.tokenizer import Tokenizer
from tests.conftest import ROOT
from tests.linear import MOST, Attack, Named, attacks, calls_in, growth, growth_at, patterns
from tests.volumes import SOAK, examples

ATTACKS = 400 if SOAK else 8  # on each pattern
TOO_MUCH = 3.0
LENGTH = 1000  # characters of the shorter text
PROFILE = profile_from(tomllib.loads((ROOT / "examples" / "profile.toml").read_text(encoding="utf-8")))

# Made where a function is called; what is called with reaches the module, and is found there, or is named here.
MADE_ELSEWHERE = {
    "llama.added_tokens": "one character out of a set, and how long each token is; tests/test_templates.py",
    "llama.template_format": "two signs and what is between them; tests/test_templates.py",
    "llama.privacy.sanitiser": "words as they are written: private ones without variants, at most 200 open values",
    "llama.privacy.dates": "DATES and RARE_DATES",
    "llama.privacy.labelled_dates": "in _LABELLED of dates",
    "llama.privacy.recognisers.names": "in RECOGNISERS",
    "llama.privacy.tags": "_ANY_TAG",
    "llama.tokenizer": "META_PATTERN and SMOLLM_PATTERN, or the vocabulary's; tests/test_tokenizer.py",
}

# What people write, and what reads like the beginning of something; each many times, and varied by a number.
UNITS = (
    "Aa Bb, ", "jl Aa{i} Bb, ", ", Aa B{i}", "Jl. Melati No. {i}, ", "no {i} Bb ", "RT 01/RW {i} ", "Sari B{x} ",
    "Pak B{x} ", "Rudi Hartono, ", "sari", "wulandari", "melati 5 ", "0812-3456-{i} ", "+62 ", "32730152049{i} ",
    "12 04 19{i}, ", "12 April 19{i} ", "2012-01-02 08 ", "12.04.", "born {i} ", "Rp {i}.000 ", "{i} juta ", "1,", "1 ",
    "one hundred ", "diabetes, ", "diabetes.\n\n", "a{i}@a.", "http://a/{i} ", "www.", "[NAME_{i}] ", "[HEALTH_1], ",
    "[", "(", "\"", "`", "]( ", "a ", " ", "\n", "\r\n", "-", "_", ".", "\u0300", "a\u0300\u0323", "\u0323\u0300",
    "\u200b", "👨\u200d👩 ", "İ", "漢", "ไทย", "ab-\ncd ", "O{i} ", "|", "x{i}\u200b", "PT Maju {x} ", "kota ", "{x}, ",
)  # fmt: skip


def repeated(unit: str, length: int) -> str:
    """A unit again and again, each time with another number and another word."""
    parts, so_far = list[str](), 0
    while so_far < length:
        i = len(parts)
        word = "".join("aeioubdgknrst"[(i // 13**k) % 13] for k in range(3))
        parts.append(unit.replace("{i}", str(1000 + i)).replace("{x}", word))
        so_far += len(parts[-1])
    return "".join(parts)


def cleaned(text: str, profile: Profile = PROFILE) -> None:
    """All that is done with the person's own text before it leaves, but for the model's part."""
    sanitiser = Sanitiser(profile, own=[text])
    passages = own_words(OwnWords((Message("user", text),)), sanitiser)
    cautions(passages, sanitiser, [text])
    review(passages, sanitiser, fields=False)
    tags_composed(passages, sanitiser.tags)
    reader = _PieceReader(clues_of(profile), sanitiser.tags)
    for piece in passages[0].pieces:
        assert not isinstance(piece, str)
        reader.refuse(piece.text)
        reader.refuse_cut([piece.text, *piece.text.split(" ")])


def more_work(do: Callable[[str], object], text: Callable[[int], str], length: int = LENGTH) -> float:
    """How much more work the second doubling of a text adds than the first: 2 is linear, 4 the square."""
    do(text(4 * length))  # what is made once, and kept
    for n in (length, 3 * length):  # in a short text the work may only begin
        once, twice, four = (calls_in(partial(do, text(size))) for size in (n, 2 * n, 4 * n))
        if (ratio := (four - twice) / max(twice - once, n // 4)) < TOO_MUCH:
            break
    return ratio


FOUND, HIDDEN = patterns()


def test_no_pattern_hides() -> None:
    """Each is found by its module or its call; one that is made of what is not known there is named above."""
    assert {each.partition(":")[0] for each in HIDDEN} == set(MADE_ELSEWHERE)
    assert len(FOUND) > 150


def finding(pattern: Named) -> Callable[[str], int]:
    """All its matches in a text."""
    return lambda text: sum(1 for _ in pattern.pattern.finditer(text))


@pytest.mark.long
def test_every_pattern_is_linear_in_texts_made_from_it() -> None:
    """Whatever it nearly matches, and however often."""
    slow = [
        (pattern.name, attack, ratio)
        for pattern in FOUND
        for attack in attacks(pattern.pattern, ATTACKS)
        if (ratio := growth(finding(pattern), attack.of, LENGTH)) > MOST
    ]
    assert not slow


def test_the_search_finds_what_is_not_linear() -> None:
    """Or it would say nothing of the others: white space before a sign, a word with a letter in it, two of a kind."""
    for written in (r"\s*[,;]\s*", r"\w*[äöü]\w*", r"<[^>]*>", r"x(?:ab?)*c|(?:ab?)*d"):
        pattern = Named(written, re.compile(written))
        assert any(growth_at(finding(pattern), each.of, LENGTH) > MOST for each in attacks(pattern.pattern, 4)), written


@pytest.mark.parametrize("recogniser", RECOGNISERS, ids=lambda each: type(each).__name__)
def test_every_recogniser_is_linear(recogniser: Recogniser) -> None:
    """Validators and neighbours, too: of every one that there is."""

    def hits(text: str) -> int:
        return sum(1 for _ in recogniser.find(NormalisedText(text)))

    for unit in UNITS if SOAK else UNITS[::9]:
        assert more_work(hits, partial(repeated, unit), LENGTH // 4) < TOO_MUCH, unit


@pytest.mark.parametrize("unit", UNITS if SOAK else UNITS[::4])
def test_cleaning_a_text_is_linear(unit: str) -> None:
    """Finding, masking, cautions and the gate, with a profile that has most of what is written."""
    assert more_work(cleaned, lambda n: repeated(unit, n), LENGTH // 4) < TOO_MUCH


@examples(0.05)
@given(st.lists(st.sampled_from(UNITS), min_size=1, max_size=4), st.sampled_from(["", " ", ", ", "\n"]))
def test_no_mixture_is_worse(units: list[str], between: str) -> None:
    """The search goes on from what made the most work."""
    ratio = more_work(cleaned, lambda n: repeated(between.join(units), n), LENGTH // 4)
    target(min(ratio, 10.0))
    assert ratio < TOO_MUCH


def restored(text: str) -> str:
    """A reply that arrives at once, and another a sign at a time."""
    tags = {"[NAME_1]": "Sari", "[NAME_1000]": "Rudi"}
    once, slowly = Restorer(tags), Restorer(tags)
    return once.push(text) + once.finish() + "".join(map(slowly.push, text)) + slowly.finish()


def sheet(text: str) -> None:
    """A sheet that somebody has published."""
    for written in (text, f"questions = [{msgspec.json.encode(text).decode()}]\n", f'questions = ["a"]\n{text}'):
        with contextlib.suppress(PromptError):
            sheets.parse_sheet(written, "a sheet")


def table(text: str) -> None:
    """Any text as TOML."""
    with contextlib.suppress(ValueError):
        toml.parsed(text)


def reply(text: str) -> None:
    """A header of the cloud's."""
    for frame in (text.encode(), wire.encode(wire.Error(wire.ErrorCode.BUSY, text[:4000])), msgspec.msgpack.encode(
        {"type": text})):  # fmt: skip
        with contextlib.suppress(ValueError):
            wire.decode_reply(frame)


PARSERS: Sequence[Callable[[str], object]] = (restored, sheet, table, reply, hits_in, printable)
THEIRS = (*UNITS, "a.", "a=1\n", "[a{i}]\n", "[[a]]\n", '"', "'''", "\\n", "a = {a = ", "[1,", "#", "x{i} = 'a'\n")


@pytest.mark.parametrize("parser", PARSERS, ids=lambda each: each.__name__)
def test_every_parser_of_a_peers_text_is_linear(parser: Callable[[str], object]) -> None:
    """By the processor's time: these are mostly not in Python."""
    for unit in THEIRS if SOAK else THEIRS[::5]:
        attack = Attack("", unit, "")
        assert growth(parser, partial(repeated, unit), LENGTH) < MOST, attack


@pytest.mark.long
def test_looking_for_quotations_is_linear(tokenizer: Tokenizer) -> None:
    """Also where all of the prompt is repeated, and known."""
    for unit in ("Recommend a gift{i} ", "the word {x} and ", "a {i} ", "1 2 3 "):
        prompt = SystemPrompt(repeated(unit, 2 * LENGTH), tokenizer)

        def asks(text: str, prompt: SystemPrompt = prompt) -> bool:
            return prompt.is_quoted_in(text, text)

        assert growth(asks, partial(repeated, unit), 2 * LENGTH) < MOST, unit


def test_a_reply_is_read_up_to_a_bound() -> None:
    """However long it is: ten times as long makes no more work."""
    for unit in ("- tea\n", "1. tea\n", "Rp 1.000 to ", "  - a\n\n", "**a** ", "[a](", "for "):
        at_bound, beyond = (calls_in(partial(query.query_of, unit * n, {"bandung"})) for n in (10_000, 100_000))
        assert beyond <= at_bound * 1.1, unit
