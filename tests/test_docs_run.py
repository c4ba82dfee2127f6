"""Every command of the pages runs as it stands: each page's blocks, from top to bottom, in a copy of the repository.

Small random checkpoints stand in for SmolLM2's halves and for Llama's directory, this machine for the GPU box, and a
free port for 5555. The test types ``y`` when a sheet asks for consent. It starts each cloud, waits until it is ready,
and stops it before it starts the next one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.documents import PAGES, README, ROOT, parsed
from tests.processes import at_a_terminal
from tests.small_checkpoints import params, weights, write_meta

pytestmark = pytest.mark.process

COPIED = ("*.py", "llama", "examples", "requirements.txt", "tests/data/tiny-llama3")
COMMAND_S = 120.0
READY = {"cloud_main.py": "ready in", "--web": "http://127.0.0.1:"}  # a word of a command that serves: its sign


class Journey(NamedTuple):
    """Sections of a page that a reader runs in this order in one directory; without any, the whole page."""

    page: str
    sections: tuple[str, ...] = ()


JOURNEYS = {
    "getting started": Journey("docs/getting-started.md"),
    "two machines, rehearsed": Journey("docs/two-machines.md", ("rehearse-on-one-machine",)),
    "two machines, Llama": Journey("docs/two-machines.md", ("llama-31-8b",)),
    "two machines, several GPUs": Journey("docs/two-machines.md", ("several-gpus",)),
    "vendors": Journey("docs/vendors.md"),
    "operations": Journey(
        "docs/operations.md",
        (
            "start-the-cloud",
            "keys",
            "the-status-program",
            "memory-ceiling-and-restart",
            "metrics-and-health",
            "the-record-and-retention",
            "back-up-and-restore",
        ),
    ),
    "privacy": Journey("docs/privacy.md"),
    "sheets": Journey("docs/sheets.md"),
}
# Commands that are not run here: make runs this very test, and the others need the network, or what a machine may lack.
NOT_RUN = ("make ", "python3 -m venv", "pip install", "curl ")
# Sections whose commands another journey runs in longer form.
ELSEWHERE = {("README.md", "try-it"), ("README.md", "llama-31-8b-on-two-machines"), ("README.md", "develop")}
# What the prose asks for between two commands: before the command that holds the word, run these.
BETWEEN = {
    ("two machines, Llama", "torchrun"): "cp phone.pub allowed",
    ("two machines, several GPUs", "torchrun"): "python -m llama.keys new cloud --role cloud && mkdir allowed && "
    "python -m llama.keys new phone --role device && cp phone.pub allowed",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def checkout(tmp_path: Path, tiny_split: Callable[..., Path], golden: Path) -> Path:
    """A copy of the repository as a reader has it after ``make demo``."""
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            target = tmp_path / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.consents.json"))
            else:
                shutil.copy(source, target)
    (tmp_path / ".demo").mkdir()
    (tmp_path / ".demo" / "smollm2").symlink_to(tiny_split())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    p = params(n_layers=4, n_heads=4, n_kv_heads=2)
    write_meta(tmp_path / "Meta-Llama-3.1-8B-Instruct", p, weights(p), golden / "tiny-llama3" / "tokenizer.model")
    return tmp_path


class Reader:
    """Someone who runs the commands of one journey in ``directory``; a context manager that leaves nothing running."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory, self._port = directory, port
        self._running: subprocess.Popen[bytes] | None = None
        self._log = directory / ".running.log"

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, command: str) -> None:
        """Run one command to its end, or until it serves."""
        command = command.replace("10.0.0.5", "127.0.0.1").replace("9100", "0").replace("5555", str(self._port))
        if "cloud_main.py" in command:
            self._stop()
            if "--bind" not in command:
                command += f" --bind tcp://127.0.0.1:{self._port}"
        shell = ["bash", "-euc", f". .venv/bin/activate; {command}"]
        serving = next((sign for word, sign in READY.items() if word in command), None)
        if serving is None:
            code, shown = at_a_terminal(shell, "y\n", cwd=self._directory, timeout_s=COMMAND_S)
            assert code == 0 or (code == 1 and "| grep" in command), f"{command}\n{shown}"  # grep that finds nothing: 1
            return
        with self._log.open("wb") as log:
            started = subprocess.Popen(
                shell, cwd=self._directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            self._wait_for(started, serving, command)
        finally:
            if "cloud_main.py" in command:
                self._running = started
            else:
                _end(started)

    def _wait_for(self, started: subprocess.Popen[bytes], sign: str, command: str) -> None:
        deadline = time.monotonic() + COMMAND_S
        while sign not in (said := self._log.read_text(errors="replace")):
            assert started.poll() is None and time.monotonic() < deadline, f"{command}\n{said}"
            time.sleep(0.05)

    def _stop(self) -> None:
        if self._running is not None:
            _end(self._running)
            self._running = None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, as a reader ends it; then make sure."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def commands_of(journey: str) -> Iterator[str]:
    """Yield the commands of a journey, with those that the prose asks for between them."""
    page, sections = JOURNEYS[journey]
    blocks = [block for block in parsed(ROOT / page)[1] if block.language == "sh"]
    order = sections or tuple(dict.fromkeys(block.section for block in blocks))
    for section in order:
        of_section = [block for block in blocks if block.section == section]
        assert of_section, f"{page} has no commands under #{section}"
        for command in (command for block in of_section for command in block.commands()):
            if not any(word in command for word in NOT_RUN) and command != ". .venv/bin/activate":
                yield from (before for (of, word), before in BETWEEN.items() if of == journey and word in command)
                yield command


@pytest.mark.parametrize("journey", JOURNEYS)
def test_the_commands_of_a_page_run_one_after_the_other(journey: str, checkout: Path) -> None:
    """Each ends with 0, or serves."""
    with Reader(checkout, free_port()) as reader:
        for command in commands_of(journey):
            reader.run(command)


def test_no_section_with_commands_is_left_out() -> None:
    """Each section with commands is in a journey, or another journey has them."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        journeys = [each for each in JOURNEYS.values() if each.page == name]
        for block in parsed(page)[1]:
            if block.language == "sh" and (name, block.section) not in ELSEWHERE:
                assert any(not each.sections or block.section in each.sections for each in journeys), (
                    f"{name}:{block.line} is run by no journey"
                )


def parts_of(command: str) -> list[frozenset[str]]:
    """Return the words of each command that ``&&`` joins."""
    return [frozenset(shlex.split(part, comments=True)) for part in command.split("&&")]


def test_the_readmes_commands_are_those_that_the_pages_run_or_fewer_words_of_one() -> None:
    """So they run, too."""
    run = [words for journey in JOURNEYS for command in commands_of(journey) for words in parts_of(command)]
    for block in parsed(README)[1]:
        for command in block.commands() if block.language == "sh" else []:
            for words in parts_of(command) if not any(word in command for word in (*NOT_RUN, "activate")) else []:
                assert any(words <= each for each in run), f"README.md:{block.line}: {command}"


def test_make_demo_shows_the_reply_and_who_saw_what(smollm2_split: Callable[..., Path]) -> None:
    """Its script, with SmolLM2: the tags leave, the values come back, the provider's record has no value."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "examples/demo.sh", str(smollm2_split())],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, done.stderr
    shown, record = done.stdout.split("all data that the provider stored")
    assert "[NAME_1]" in shown and "Gifts for Rudi Hartono" in shown and "who saw what" in shown
    assert "Gifts for [NAME_1]" in record and "Rudi" not in record
