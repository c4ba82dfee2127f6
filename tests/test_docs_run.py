"""Every command of the pages runs as it stands: each page's blocks, from top to bottom, in a copy of the repository.

A small random checkpoint stands in for Llama's directory, this machine for the GPU box, and a free port for 5555. The
test agrees to what sheets ask for (``--yes``). It starts each cloud, waits until it is ready, and stops it before it
starts the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, parsed
from tests.small_checkpoints import params, weights, write_meta

pytestmark = pytest.mark.process

COPIED = ("*.py", "llama", "examples", "requirements.txt", "tests/data/tiny-llama3")
COMMAND_S = 120.0
READY = {"cloud_main.py": "ready in", "--web": "http://127.0.0.1:", "--metrics_port": "ready in"}

# Sections, in the order in which a reader runs them; those of one row share a directory.
JOURNEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "README": ("README.md", ("try-it",)),
    "getting started": (
        "docs/getting-started.md",
        (
            "ask-your-own-question",
            "use-your-own-profile",
            "get-offers-and-see-what-a-third-party-gets",
            "use-the-page",
            "use-it-in-scripts",
        ),
    ),
    "two machines, rehearsed": ("docs/two-machines.md", ("rehearse-on-one-machine",)),
    "two machines, Llama": ("docs/two-machines.md", ("llama-31-8b",)),
    "two machines, several GPUs": ("docs/two-machines.md", ("several-gpus",)),
}
# Blocks with these are not run here: make runs this very test, and the install needs the network.
NOT_RUN = ("make ", "pip install", "curl ", "systemctl", "ssh ")
# What the prose asks for between two commands: before the command that holds the first, run the second.
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
def checkout(tmp_path: Path, smollm2_split: Callable[..., Path], golden: Path) -> Path:
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
    (tmp_path / ".demo" / "smollm2").symlink_to(smollm2_split())
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
        command = command.replace("10.0.0.5", "127.0.0.1").replace("5555", str(self._port))
        if "cloud_main.py" in command and "--bind" not in command:
            command += f" --bind tcp://127.0.0.1:{self._port}"
        if "--profile_file" in command and not {"--yes", "--dry_run", "--web"} & {*command.split()}:
            command += " --yes"
        serving = next((sign for word, sign in READY.items() if word in command), None)
        shell = ["bash", "-euc", f". .venv/bin/activate; {command}"]
        if serving is None:
            done = subprocess.run(
                shell, cwd=self._directory, timeout=COMMAND_S, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            return
        if "cloud_main.py" in command:
            self._stop()
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


def shell_blocks(page: str, section: str) -> Iterator[Block]:
    """The sh blocks below a heading, also below its own headings."""
    _, blocks, _ = parsed(ROOT / page)
    yield from (block for block in blocks if block.section == section and block.language == "sh")


@pytest.mark.parametrize("journey", JOURNEYS)
def test_the_commands_of_a_page_run_one_after_the_other(journey: str, checkout: Path) -> None:
    """Each ends with 0, or serves."""
    page, sections = JOURNEYS[journey]
    with Reader(checkout, free_port()) as reader:
        for section in sections:
            blocks = list(shell_blocks(page, section))
            assert blocks, f"{page} has no commands under #{section}"
            for block in blocks:
                for command in block.commands():
                    if any(word in command for word in NOT_RUN) or command == ". .venv/bin/activate":
                        continue
                    for (of, word), before in BETWEEN.items():
                        if of == journey and word in command:
                            reader.run(before)
                    reader.run(re.sub(r"\s+#.*$", "", command))


def test_no_section_with_commands_is_left_out() -> None:
    """Each section with commands is in a journey, or says elsewhere that another one has them."""
    for page in {page for page, _ in JOURNEYS.values()}:
        run = {section for of, sections in JOURNEYS.values() for section in sections if of == page}
        for block in parsed(ROOT / page)[1]:
            left = [c for c in block.commands() if not any(word in c for word in NOT_RUN) and "activate" not in c]
            if block.language == "sh" and left and block.section not in run:
                assert block.section in ELSEWHERE.get(page, ()), f"{page}:{block.line} is run by no journey"


# Sections whose commands stand in another journey, too.
ELSEWHERE = {"README.md": ("llama-31-8b-on-two-machines",), "docs/getting-started.md": ("install-by-hand",)}


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
