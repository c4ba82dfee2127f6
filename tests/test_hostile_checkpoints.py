"""Whatever a checkpoint says, opening it ends soon, takes little memory, and a refusal is one line that names the file.

SOAK=1 opens every case instead of the known ones and a tenth of the others, and damages sound files at random.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_checkpoints import CHATML, READERS, Bases, Case, all_cases, gguf_bytes
from tests.support import ROOT
from tests.volumes import SOAK

pytestmark = pytest.mark.process

MIB = 500
SECONDS = 2.0  # of computing
TIMEOUT_S = 60.0  # by the clock, on a machine that has much else to do
LEAST = 30  # cases of each reader
MUTATIONS = 300 if SOAK else 4  # of each file


class Opener:
    """The process of ``tests.hostile_opener``; a context manager."""

    def __init__(self) -> None:
        self._process = self._started()

    def try_to_open(self, path: Path, half: bool) -> dict[str, Any]:
        """What it came to; ``said`` begins with ``HANGS`` or ``DIES`` if nothing came."""
        process, killed = self._process, threading.Event()
        assert process.stdin is not None and process.stdout is not None

        def kill() -> None:
            killed.set()
            process.kill()

        watch = threading.Timer(TIMEOUT_S, kill)
        watch.start()
        try:
            process.stdin.write(json.dumps({"path": str(path), "half": half}) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            watch.cancel()
        if answer:
            result: dict[str, Any] = json.loads(answer)
            return result
        process.wait()
        self._process = self._started()
        return {"said": "HANGS" if killed.is_set() else f"DIES of {process.returncode}", "computed": 0.0, "mib": 0.0}

    @staticmethod
    def _started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.hostile_opener"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    with Opener() as running:
        yield running


@pytest.fixture(scope="module")
def bases(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"), golden)


def complaints(result: dict[str, Any], directory: Path, must_be_refused: bool) -> list[str]:
    """What is wrong with how a checkpoint was treated."""
    said, wrong = result["said"], []
    if said is None:
        wrong += ["is opened"] if must_be_refused else []
    elif str(directory) not in said:
        wrong.append("the file is not named" if not said.startswith(("HANGS", "DIES", "NOT")) else "is not refused")
    elif not said.isprintable():
        wrong.append("the refusal is more than a line of text")
    elif len(said) > 600:
        wrong.append(f"the refusal has {len(said)} characters")
    if result["mib"] > MIB:
        wrong.append(f"takes {result['mib']:.0f} MiB")
    if said is not None and result["computed"] > SECONDS:
        wrong.append(f"takes {result['computed']:.1f} s")
    return wrong


def test_each_reader_has_its_cases(bases: Bases) -> None:
    """At least thirty each, no two of one name, and some that are known to have hung."""
    cases = all_cases(bases)
    counted, known = Counter(case.reader for case in cases), Counter(case.reader for case in cases if case.known)
    assert set(counted) == set(READERS) and min(counted.values()) >= LEAST, counted
    assert set(known) == set(READERS)
    assert max(Counter((case.reader, case.base, case.name) for case in cases).values()) == 1


def test_the_sound_checkpoints_that_cases_are_made_of_are_opened(bases: Bases, opener: Opener, tmp_path: Path) -> None:
    """So what is refused is refused for what was done to it."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())
    for path in (*(bases.directories[name] for name in ("meta", "hf", "indexed")), tmp_path / "m.gguf"):
        assert opener.try_to_open(path, half=False)["said"] is None
    assert opener.try_to_open(bases.directories["edge"], half=True)["said"] is None


def test_hostile_checkpoints_are_refused_by_name_or_opened_soon_and_in_little_memory(
    bases: Bases, opener: Opener, tmp_path: Path
) -> None:
    """2 s of computing and 500 MiB, whatever the file is, says or is a link to."""
    chance, problems, results = random.Random(20), list[str](), list[tuple[dict[str, Any], Case]]()
    for number, case in enumerate(all_cases(bases)):
        if not SOAK and not (case.known or chance.random() < 0.1):
            continue
        directory = tmp_path / str(number)
        result = opener.try_to_open(case.make(bases, directory), half=case.base == "edge")
        shutil.rmtree(directory)
        results.append((result, case))
        for wrong in complaints(result, directory, case.known):
            problems.append(f"{case.reader}, {case.base}, {case.name}: {wrong}: {str(result['said'])[:300]}")
    print(f"\n{len(results)} checkpoints, {sum(result['said'] is None for result, _ in results)} of them opened")
    for measure in ("computed", "mib"):
        for result, case in sorted(results, key=lambda each: -each[0][measure])[:8]:
            print(f"{result['computed']:6.2f} s {result['mib']:6.0f} MiB  {case.reader}, {case.base}: {case.name}")
    assert not problems, "\n".join(problems)


FILES = [
    ("gguf", "m.gguf"),
    ("hf", "model.safetensors"),
    ("hf", "config.json"),
    ("hf", "tokenizer.json"),
    ("hf", "chat_template.jinja"),
    ("meta", "consolidated.00.pth"),
    ("meta", "params.json"),
    ("meta", "tokenizer.model"),
    ("edge", "consolidated.00.pth"),
    ("edge", "params.json"),
    ("edge", "manifest.json"),
    ("edge", "tokenizer.model"),
]


def damaged(sound: bytes, chance: random.Random, header: int) -> bytes:
    """One to four changes, most of them near the beginning or the end, where files say what they are."""
    data = bytearray(sound)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice((chance.randrange(min(header, len(data)) or 1), chance.randrange(len(data) or 1),
                            max(0, len(data) - chance.randrange(1, 400))))  # fmt: skip
        size = chance.choice((1, 2, 4, 8))
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if data else b"x"
            case 1:
                data[at : at + size] = b"\xff" * size
            case 2:
                data[at : at + size] = (1 << chance.randrange(8 * size)).to_bytes(size, "little")
            case 3:
                del data[at : len(data) if chance.random() < 0.3 else at + chance.randrange(1, 60)]
            case 4:
                data[at:at] = chance.randbytes(chance.randrange(1, 60))
            case 5:
                data[at:at] = data[at : at + chance.randrange(1, 2000)]
            case 6:
                data[at : at + size] = chance.choice(
                    (b"9" * 20, b"-1", b"1e99", b"null", b"[[[[", b'"', b"{%", bytes(9))
                )
    return bytes(data)


@pytest.mark.parametrize(("base", "file"), FILES, ids=map("-".join, FILES))
def test_a_file_damaged_anywhere_is_refused_by_name_or_opened(
    base: str, file: str, bases: Bases, opener: Opener, tmp_path: Path
) -> None:
    """Bits, numbers and pieces changed, lost, repeated and put in between, in each kind of file."""
    chance, problems, opened = random.Random(f"{base} {file}"), list[str](), 0
    if base == "gguf":
        sound = gguf_bytes({"tokenizer.chat_template": (8, struct.pack("<Q", len(CHATML)) + CHATML.encode())})
    else:
        sound = CHATML.encode() if file == "chat_template.jinja" else bases.read(base, file)
    for number in range(MUTATIONS):
        content, directory = damaged(sound, chance, 6000), tmp_path / str(number)
        case = Case(base, str(number), base, file, content)
        result = opener.try_to_open(case.make(bases, directory), half=base == "edge")
        wrong = complaints(result, directory, must_be_refused=False)
        opened += result["said"] is None
        problems += [f"{number}: {what}: {str(result['said'])[:300]}" for what in wrong]
        shutil.rmtree(directory)
    print(f"\n{MUTATIONS} damaged files {base}/{file}, {opened} of them opened")
    assert not problems, "\n".join(problems)
