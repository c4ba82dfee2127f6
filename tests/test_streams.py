"""Programs whose standard streams are closed, full, deaf, of another encoding, or a terminal that is odd.

Each program in each state is a process of its own: it ends as it does otherwise, or says in one line why it cannot;
there is never a traceback, and never anything else on stdout than what belongs there. ``make test`` tries a part of the
table, ``SOAK`` all of it.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from llama import screen, starting
from llama.cloud.backup import RECORD, back_up
from llama.cloud.run_store import RunStore
from llama.edge.terminal import Terminal
from tests.processes import wait_until
from tests.support import ROOT
from tests.volumes import SOAK

TIMEOUT_S = 120.0  # far more than any of it takes
NO_ROOM = "error: writing the output: No space left on device; free some room, or write to another disk\n"

Splits = Callable[..., Path]


class Ended(NamedTuple):
    """Of a process: None is a stream that nobody could read."""

    code: int
    out: str | None
    err: str | None


@dataclass(frozen=True)
class State:
    """How a program is started.

    Attributes:
        shell: what a shell does to it: redirections, or a limit before them.
        environment: added to ours; None takes a variable away.
        terminal: all three streams are a terminal.
        deaf: nobody reads its stdout any more.
        fails: what it says where it cannot write its output, or None where it can.
    """

    shell: str = '"$@"'
    environment: Mapping[str, str | None] = field(default_factory=dict)
    terminal: bool = False
    deaf: bool = False
    fails: str | None = None

    def run(self, *words: object) -> Ended:
        """A program of ours, to its end."""
        environment = {k: v for k, v in {**os.environ, **self.environment}.items() if v is not None}
        command = ["sh", "-c", self.shell, "sh", sys.executable, *map(str, words)]
        if self.terminal:
            return self._on_a_terminal(command, environment)
        reader, writer = os.pipe()
        if self.deaf:
            os.close(reader)
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE
        ) as process:
            os.close(writer)
            out = b""
            if not self.deaf:
                with os.fdopen(reader, "rb") as file:
                    out = file.read()
            _, err = process.communicate(timeout=TIMEOUT_S)
        return Ended(process.returncode, _seen(self.shell, ">", out), _seen(self.shell, "2>", err))

    def _on_a_terminal(self, command: list[str], environment: dict[str, str]) -> Ended:
        ours, its = os.openpty()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its) as process:
            os.close(its)
            shown = b""
            while select.select([ours], [], [], TIMEOUT_S)[0]:
                try:
                    if not (more := os.read(ours, 1 << 16)):
                        break
                except OSError:  # EIO: the other end is closed
                    break
                shown += more
            process.wait(TIMEOUT_S)
        os.close(ours)
        text = shown.decode(errors="replace")
        return Ended(process.returncode, text, text)


def _seen(shell: str, sign: str, text: bytes) -> str | None:
    return None if re.search(rf"(?<!\d){re.escape(sign)}", shell) else text.decode("utf-8", "backslashreplace")


STATES = {
    "stdin closed": State('exec "$@" <&-'),
    "stdout closed": State('exec "$@" >&-'),
    "stderr closed": State('exec "$@" 2>&-'),
    "stdin and stdout closed": State('exec "$@" <&- >&-'),
    "stdin and stderr closed": State('exec "$@" <&- 2>&-'),
    "stdout and stderr closed": State('exec "$@" >&- 2>&-'),
    "all closed": State('exec "$@" <&- >&- 2>&-'),
    "stdout full": State('exec "$@" >/dev/full', fails=NO_ROOM),
    "stderr full": State('exec "$@" 2>/dev/full'),
    "stdout and stderr full": State('exec "$@" >/dev/full 2>/dev/full', fails=NO_ROOM),
    "stdout for reading only": State('exec "$@" 1</dev/null', fails="error: writing the output: Bad file descriptor\n"),
    "stdin for writing only": State('exec "$@" 0>/dev/null'),
    "nobody reads stdout": State(deaf=True, fails=""),
    "ASCII": State(environment={"PYTHONIOENCODING": "ascii"}),
    "cp1252": State(environment={"PYTHONIOENCODING": "cp1252"}),
    "KOI8-R, strictly": State(environment={"PYTHONIOENCODING": "koi8-r:strict"}),
    "a locale without UTF-8": State(
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": None}
    ),
    "a terminal": State(terminal=True),
    "a terminal of ASCII": State(terminal=True, environment={"PYTHONIOENCODING": "ascii"}),
    "a dumb terminal": State(terminal=True, environment={"TERM": "dumb"}),
    "an unnamed terminal": State(terminal=True, environment={"TERM": None}),
    "a terminal without colour": State(terminal=True, environment={"NO_COLOR": "1"}),
    "no columns": State(terminal=True, environment={"COLUMNS": "0"}),
    "one column": State(terminal=True, environment={"COLUMNS": "1"}),
    "less than no columns": State(terminal=True, environment={"COLUMNS": "-1"}),
    "too many columns": State(terminal=True, environment={"COLUMNS": "123456789"}),
    "columns that are no number": State(terminal=True, environment={"COLUMNS": "²", "LINES": "²"}),
    "more digits than an int has": State(terminal=True, environment={"COLUMNS": "9" * 5000, "LINES": "9" * 5000}),
    "few descriptors": State('ulimit -n 64; exec "$@"'),
    "very few descriptors": State('ulimit -n 24; exec "$@"'),
}


class Program(NamedTuple):
    """A command line in a directory of its own.

    Attributes:
        words: the command line.
        prints: it has something to say on stdout.
        code: with which it ends.
        codes: where that differs, by states.
    """

    words: list[object]
    prints: bool = False
    code: int = 0
    codes: Mapping[str, int] = {}


class World(NamedTuple):
    """What the programs need: halves, a cloud's address, a profile, a prompt."""

    halves: Path
    checkpoint: Path
    address: str
    profile: Path
    prompt: Path
    record: Path
    backup: Path


@pytest.fixture(scope="module")
def world(tiny_split: Splits, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a cloud that was started without any of the three streams."""
    base = tmp_path_factory.mktemp("streams")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(ROOT / "examples" / "profile.toml", base)
    (base / "question.txt").write_text("Why?")
    RunStore(base / "kept.sqlite").close()
    back_up({RECORD: base / "kept.sqlite"}, base / "backup")
    halves = tiny_split()
    command = [
        "cloud_main.py", "--ckpt_dir", halves / "cloud", "--bind", f"tcp://127.0.0.1:{port}", "--max_seq_len", 4096,
        "--max_batch_size", 4, "--sheet_dir", ROOT / "examples" / "sheets", "--record_file", base / "runs.sqlite",
    ]  # fmt: skip
    cloud = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, *map(str, command)], cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: cloud.poll() is not None or _listens(port), TIMEOUT_S) and cloud.poll() is None
        for number in range(3):
            assert Path(f"/proc/{cloud.pid}/fd/{number}").readlink() == Path(os.devnull)
        yield World(
            halves, golden / "tiny-llama3", f"tcp://127.0.0.1:{port}", base / "profile.toml", base / "question.txt",
            base / "kept.sqlite", base / "backup",
        )  # fmt: skip
        cloud.send_signal(signal.SIGTERM)
        assert cloud.wait(TIMEOUT_S) == 0
        with closing(sqlite3.connect(base / "runs.sqlite")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        cloud.kill()
        cloud.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def programs(world: World, base: Path) -> dict[str, Program]:
    """All of them, with a directory for what they write."""
    strange = base / "ключи \udcff"  # of a name that no stream can write
    strange.mkdir()
    edge = ["edge_main.py", "--ckpt_dir", world.halves / "edge", "--cloud", world.address, "--temperature", 0]
    edge += ["--max_gen_len", 3]
    asks = [*edge, "--prompt_id", "birthday", "--profile_file", world.profile]
    products = strange / "products.jsonl"
    products.write_text('{"id": "a", "vendor": "v", "title": "Чашка", "price": 1}\n')
    return {
        "device, JSON": Program([*edge, "--prompt_file", world.prompt, "--sanitise", "off", "--json"], prints=True),
        "device, tables": Program([*edge, "--prompt_file", world.prompt], prints=True),
        "device, plain": Program([*edge, "--prompt_file", world.prompt, "--plain"], prints=True),
        "device, dry": Program([*edge, "--prompt_file", world.prompt, "--dry_run"], prints=True),
        "device, sheets": Program([*edge, "--list_sheets"], prints=True),
        "device that asks": Program([*asks, "--plain"], code=1),
        "device without its half": Program(["edge_main.py", "--ckpt_dir", strange, *edge[3:], *asks[-4:]], code=1),
        "device, help": Program(["edge_main.py", "--help"], prints=True),
        "cloud, help": Program(["cloud_main.py", "--help"], prints=True),
        "cloud without its half": Program(["cloud_main.py", "--ckpt_dir", strange], code=1),
        "cloud whose port is taken": Program(
            ["cloud_main.py", "--ckpt_dir", world.halves / "cloud", "--bind", world.address, "--max_batch_size", 1],
            code=1,
        ),
        "split": Program(
            ["split_checkpoint.py", "--ckpt_dir", world.checkpoint, "--output_dir", base / "половины"],
            codes={"a locale without UTF-8": 1},  # torch opens no such file there
        ),
        "split into a name that is not UTF-8": Program(
            ["split_checkpoint.py", "--ckpt_dir", world.checkpoint, "--output_dir", strange / "out"], code=1
        ),
        "split of nothing": Program(
            ["split_checkpoint.py", "--ckpt_dir", strange, "--output_dir", strange / "out"], code=1
        ),
        "keys": Program(["-m", "llama.keys", "new", "a", "--role", "device", "--dir", strange], prints=True),
        "keys, wrong": Program(["-m", "llama.keys", "new", "Ä", "--role", "device"], code=2),
        "status": Program(["-m", "llama.status", "--cloud", world.address], prints=True),
        "status, JSON": Program(["-m", "llama.status", "--cloud", world.address, "--json"], prints=True),
        "vendor": Program(
            ["-m", "llama.vendor", "--cloud", world.address, "--vendor", "insurer"],
            codes={name: 2 for name in STATES if re.search("stdout closed|stdout and stderr closed|all closed", name)},
        ),
        "vendor, spool": Program(
            ["-m", "llama.vendor", "--cloud", world.address, "--vendor", "insurer", "--spool", strange / "spool"]
        ),
        "import": Program(
            ["-m", "llama.cloud.importing", "--import_file", products, "--catalogue", strange / "products.sqlite"]
        ),
        "back-up": Program(
            ["-m", "llama.cloud.backup", "--record_file", world.record, "--output_dir", strange / "copy"]
        ),
        "restore": Program(
            ["-m", "llama.cloud.restore", "--backup_dir", world.backup, "--record_file", strange / "runs.sqlite"]
        ),
        "restore of nothing": Program(
            ["-m", "llama.cloud.restore", "--backup_dir", strange, "--record_file", strange / "runs.sqlite"], code=1
        ),
    }  # fmt: skip


NAMES = [
    "device, JSON", "device, tables", "device, plain", "device, dry", "device, sheets", "device that asks",
    "device without its half", "device, help", "cloud, help", "cloud without its half", "cloud whose port is taken",
    "split", "split into a name that is not UTF-8", "split of nothing", "keys", "keys, wrong", "status",
    "status, JSON", "vendor", "vendor, spool", "import", "back-up", "restore", "restore of nothing",
]  # fmt: skip
USUAL = [
    ("device, JSON", "stderr closed"), ("device, tables", "a terminal of ASCII"), ("device that asks", "stdin closed"),
    ("keys", "cp1252"), ("keys", "stdout full"), ("keys", "stdout closed"),
    ("keys", "nobody reads stdout"), ("keys", "stderr full"), ("keys", "very few descriptors"),
    ("import", "columns that are no number"), ("back-up", "all closed"), ("restore", "stderr closed"),
    ("restore of nothing", "a locale without UTF-8"),
]  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize(("program", "state"), [(p, s) for p in NAMES for s in STATES] if SOAK else USUAL)
def test_a_program_ends_as_it_does_with_ordinary_streams(
    program: str, state: str, world: World, tmp_path: Path
) -> None:
    """Or in one line where its output cannot be written."""
    case, how = programs(world, tmp_path)[program], STATES[state]
    code = case.codes.get(state, case.code)
    if case.prints and how.fails is not None:
        code = 1
    if program == "device that asks" and how.terminal:
        pytest.skip("somebody would have to answer")
    ended = how.run(*case.words)
    assert ended.code == code, ended
    for said in (ended.out, ended.err):
        assert not re.search("Traceback|Exception|Fatal|Error:", said or ""), said
    if how.terminal:
        return
    if not case.prints:
        assert ended.out in (None, "")
    if case.prints and how.fails is not None and ended.err is not None:
        assert ended.err.endswith(how.fails)
    if code and ended.err is not None:
        assert ended.err.count("\n") == 1 or how.fails is not None, ended.err
    if program == "device that asks" and ended.err is not None:
        assert "Run this in a terminal to agree" in ended.err and "--yes" in ended.err
    if program.endswith("JSON") and code == 0 and ended.out is not None:
        assert isinstance(json.loads(ended.out), dict) and ended.out.count("\n") == 1
    if program in ("device, plain", "device, tables") and code == 0 and ended.out is not None:
        assert ended.out.encode("utf-8").decode("utf-8") and "\\u" not in ended.out  # a pipe gets UTF-8


@pytest.mark.parametrize("columns", ["", "0", "1", "-5", "²", "80", "1e9", "9" * 5000])
def test_a_table_is_laid_out_for_what_a_terminal_can_be(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within bounds, whatever COLUMNS says."""
    monkeypatch.setenv("COLUMNS", columns)
    ours, its = os.openpty()
    with os.fdopen(its, "w", encoding="utf-8") as terminal:
        assert 20 <= screen.console(terminal).width <= 1000
        assert (screen.console(terminal).width == 80) == (columns in ("", "0", "-5", "²", "80", "1e9", "9" * 5000))
    os.close(ours)


# --- What a person types --------------------------------------------------------------------------------------------


def ask_on(terminal: int, typed: bytes, monkeypatch: pytest.MonkeyPatch) -> bool | None:
    """What comes of a question, which goes through a pipe, where ``typed`` is typed once it is seen."""
    reader, writer = os.pipe()

    def answer() -> None:
        seen = b""
        while not seen.endswith(b"[y/N] "):
            seen += os.read(reader, 100)
        assert seen == b"Agree? [y/N] "
        os.write(terminal, typed)

    person = threading.Thread(target=answer)
    person.start()
    with os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        said = Terminal().ask("Agree?")
        person.join()
    os.close(reader)
    return said


@pytest.mark.parametrize("how", ["as usual", "raw", "without waiting", "without echo"])
@pytest.mark.parametrize(
    ("typed", "understood"),
    [("y", True), ("Ya", True), ("n", False), ("", False), ("да", False), ("\udcff", False), ("\x04", False)],
)
def test_an_answer_is_read_from_a_terminal_in_any_state(
    how: str, typed: str, understood: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw, as a program that was killed has left it, a terminal ends a line with a carriage return."""
    ours, its = os.openpty()
    modes = termios.tcgetattr(its)
    if how == "raw":
        tty.setraw(its)
    if how == "without echo":
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(its, termios.TCSANOW, modes)
    if how == "without waiting":
        os.set_blocking(its, False)
    with open(its, encoding="ascii", closefd=False) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        assert ask_on(ours, os.fsencode(typed) + b"\r", monkeypatch) is understood
    os.close(ours)
    os.close(its)


def test_nobody_agrees_to_what_nobody_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyboard is there, but the question would go into a file, or nowhere; through a pipe it may be seen."""
    ours, its = os.openpty()
    with os.fdopen(its, encoding="utf-8") as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        for unseen in (Path(os.devnull), tmp_path / "log"):
            with unseen.open("w") as stderr:
                monkeypatch.setattr(sys, "stderr", stderr)
                assert Terminal().ask("Agree?") is None
        assert ask_on(ours, b"y\n", monkeypatch) is True
    os.close(ours)


def test_nobody_agrees_to_a_question_that_could_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a pipe that nobody reads any more; the stream of our programs drops what it cannot write."""
    ours, its = os.openpty()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(its, encoding="utf-8") as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        threading.Timer(0.3, os.write, (ours, b"y\n")).start()  # so that the old way would not wait for ever
        deaf = io.TextIOWrapper(io.BufferedWriter(starting._DroppingOutput(writer, "wb")), line_buffering=True)
        with deaf as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            assert Terminal().ask("Agree?") is None
    time.sleep(0.4)
    os.close(ours)


def test_what_was_typed_before_the_question_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paste, or keys that were pressed while the model was read."""
    ours, its = os.openpty()
    with os.fdopen(its, encoding="utf-8") as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        os.write(ours, b"y\n")
        assert ask_on(ours, b"n\n", monkeypatch) is False
    os.close(ours)


def test_a_terminal_that_has_gone_is_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its window was closed while the question stood there, or there never was one."""
    ours, its = os.openpty()
    with os.fdopen(its, encoding="utf-8") as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        threading.Timer(0.2, os.close, (ours,)).start()
        assert not Terminal().ask("Agree?")
    monkeypatch.setattr(sys, "stdin", None)
    assert Terminal().ask("Agree?") is None


@pytest.mark.process
def test_a_slow_reader_is_waited_for_where_a_parent_has_left_a_pipe_non_blocking() -> None:
    """All of it arrives, and nothing is said of it."""
    script = "from llama import starting; starting.begin(); print('x' * 500_000, flush=True)"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        time.sleep(0.2)
        with os.fdopen(reader, "rb") as file:
            assert len(file.read()) == 500_001
        assert process.communicate(timeout=TIMEOUT_S)[1] == b""
    assert process.returncode == 0
