"""How much of the personal data in free text is found, how much else is masked, and how long it takes.

    python -m tests.benchmarks.sanitising [--count 500]

On texts of templates that were written apart from the patterns, by somebody who had not seen them, and kept apart
while the patterns were written (``tests/free_text.py``). Two rings: *declared*, where the values are in the profile;
and *patterns*, where nothing is declared. Beside them, on the same texts, the detector of lokal-id.

A value is found if every letter and digit of it is masked. Over-masking is the share of all other letters and digits
that is masked too. The texts are synthetic: real ones are harder.
"""

from __future__ import annotations

import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lokal.samaran import detect_pii

from llama.chat import Llama3Format
from llama.command import run
from llama.privacy import gate
from llama.privacy.gate import Outgoing
from llama.privacy.preparing import prepare
from llama.privacy.profile import profile_from
from llama.privacy.recognisers import hits_in
from llama.privacy.sanitiser import Sanitiser
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from tests.benchmarks.reporting import Aimed, machine, versions
from tests.free_text import Sample, samples
from tests.processes import ROOT

TEXTS, SEED = ROOT / "tests" / "data" / "free_text.toml", 7
AIMS = {"id": 0.95, "en": 0.92}
FIELD_OF = {
    "NAME": "name", "FIRST": "nickname", "ADDRESS": "address", "DOB": "birth_date", "NIK": "nik", "KK": "kk",
    "NPWP": "npwp", "PHONE": "phone", "EMAIL": "email", "CARD": "card", "ACCOUNT": "bank_account", "IBAN": "iban",
    "URL": "website",
}  # fmt: skip

Detector = Callable[[Sample], list[tuple[int, int]]]


@dataclass(frozen=True)
class Figures:
    """Shares of 1, but for ``ms``: milliseconds per text."""

    recall: float
    by_kind: dict[str, float]
    clean_texts: float
    over_masked: float
    ms: float


def patterns(sample: Sample) -> list[tuple[int, int]]:
    """What is found where nothing is declared."""
    return [(hit.start, hit.end) for hit in hits_in(sample.text)]


def declared(sample: Sample) -> list[tuple[int, int]]:
    """What is found where every value is in the profile, and patterns find nothing."""
    table: dict[str, list[str]] = {}
    for start, end, kind in sample.spans:
        table.setdefault(FIELD_OF[kind], []).append(sample.text[start:end])
    return [(found.start, found.end) for found in Sanitiser(profile_from(table)).secrets.find(sample.text)]


def lokal_id(sample: Sample) -> list[tuple[int, int]]:
    """What lokal-id finds."""
    return [(match.start, match.end) for match in detect_pii(sample.text)]


def measure(detector: Detector, texts: Sequence[Sample]) -> Figures:
    """The detector's figures on ``texts``."""
    there, found = Counter[str](), Counter[str]()
    clean = ordinary = masked_ordinary = 0
    seconds = 0.0
    for sample in texts:
        began = time.perf_counter()
        spans = detector(sample)
        seconds += time.perf_counter() - began
        masked = {i for start, end in spans for i in range(start, end)}
        personal = {i for start, end, _ in sample.spans for i in range(start, end)}
        signs = {i for i, char in enumerate(sample.text) if char.isalnum()}
        for start, end, kind in sample.spans:
            there[kind] += 1
            found[kind] += signs.intersection(range(start, end)) <= masked
        clean += signs & personal <= masked
        ordinary += len(signs - personal)
        masked_ordinary += len((signs - personal) & masked)
    return Figures(
        found.total() / there.total(), {kind: found[kind] / there[kind] for kind in sorted(there)}, clean / len(texts),
        masked_ordinary / ordinary, 1000 * seconds / len(texts),
    )  # fmt: skip


def profile_ms(rounds: int = 20) -> tuple[list[float], list[float]]:
    """Milliseconds to prepare the sample profile with 2,000 characters of notes, all fields asked for: the whole way
    from the profile to what may leave, and the gate's share of it.
    """
    table = tomllib.loads((ROOT / "examples" / "profile.toml").read_text())
    texts = samples(TEXTS, "id", 40, SEED)
    table["notes"] = "\n".join(sample.text for sample in texts)[:2000]
    tokenizer = Tokenizer(ROOT / "tests" / "data" / "tiny-llama3" / "tokenizer.model")
    chat, found = (
        Llama3Format(tokenizer),
        SourcedPrompt(Sheet(("What?",), asks_for=tuple(table)), "provider:here", "all"),
    )
    whole, of_gate = list[float](), list[float]()
    passed = gate.check

    def timed(*args: Any, **kwargs: Any) -> Outgoing:
        began = time.perf_counter()
        outgoing = passed(*args, **kwargs)
        of_gate.append(1000 * (time.perf_counter() - began))
        return outgoing

    gate.check = timed
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            prepare(found, profile_from(table), "schema", chat, tokenizer, 8192)
            whole.append(1000 * (time.perf_counter() - began))
    finally:
        gate.check = passed
    return whole, of_gate


def main(count: int = 500) -> None:
    """Print the figures.

    Args:
        count: texts per language.
    """
    print(machine())
    print(versions(["lokal-id", "phonenumberslite", "python-stdnum", "faker"]))
    for language, aim in AIMS.items():
        texts = samples(TEXTS, language, count, SEED)
        print(f"\n{language}: {count} texts, {sum(len(sample.spans) for sample in texts)} values")
        for name, detector in (("declared", declared), ("patterns", patterns), ("lokal-id", lokal_id)):
            figures = measure(detector, texts)
            print(
                Aimed(
                    f"{name}: recall", [figures.recall], digits=3, at_least=aim if name == "patterns" else None
                ).line()
            )
            print(
                f"    clean texts {figures.clean_texts:.2f}, over-masked {figures.over_masked:.3f}, {figures.ms:.2f} ms"
            )
            print("    " + ", ".join(f"{kind} {share:.2f}" for kind, share in figures.by_kind.items()))
    print()
    whole, of_gate = profile_ms()
    print(Aimed("a profile of 19 fields with 2,000 characters of notes", whole, " ms", 1, at_most=50).line())
    print(Aimed("the gate's share of it, with encoding", of_gate, " ms", 1, at_most=10).line())


if __name__ == "__main__":
    run(main)
