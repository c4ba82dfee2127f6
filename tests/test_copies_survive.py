"""Claims about where a third party's copies go, and that none is lost whoever is killed: real processes, real SIGKILLs.

The third party's program in a spool directory, with a command, into a file and into a pipe; it, the command and the
cloud are killed at each of their steps. SOAK=1 kills more.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llama import wire
from llama.client.link import Link
from llama.cloud.provider import ProviderServices
from llama.cloud.run_store import RunStore
from llama.sheets import read_all
from llama.tokenizer import Tokenizer
from llama.vendor.collector import line_of
from llama.vendor.program import main
from tests.killing import ForkServer
from tests.processes import alive, wait_until
from tests.support import Halves, Served, exit_code, wait_for_end, written
from tests.test_deliveries import finish, left
from tests.volumes import SOAK

pytestmark = pytest.mark.process

SHEETS = {
    "system.txt": "Never sell two of a kind.",
    "insurer/short.toml": 'questions = ["Which cover?"]',
    "insurer/large.toml": f'# {"a sheet of more than a pipe takes " * 2000}\nquestions = ["Which cover?"]',
}
IMPORTER = """\
# Stores the copy on its standard input in DIRECTORY; dies once, at the step of that number, over all starts.
directory=$1 at=$2
step() { n=$(cat "$directory/steps"); n=$((n + 1)); echo $n > "$directory/steps"; [ $n -ne $at ] || kill -9 $$; }
step
head -c 100 > "$directory/$$.part"; step
cat >> "$directory/$$.part"; step
mv "$directory/$$.part" "$directory/$RUN_ID.json"; echo $RUN_ID >> "$directory/stored"; step
"""
STEPS_OF_IMPORTER = 4


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer() as forks:
        yield forks


@pytest.fixture(scope="module")
def sheet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("copies") / "sheets", SHEETS)


@pytest.fixture(scope="module")
def a_cloud(halves: Halves, tokenizer: Tokenizer, sheet_dir: Path) -> Iterator[Served]:
    with closing(RunStore(sheet_dir.with_name("runs.sqlite"))) as record:
        services = ProviderServices.of(tokenizer, store=record, directory=read_all(str(sheet_dir)))
        with Served(halves, tokenizer, services=services) as served:
            yield served


@pytest.fixture
def served(a_cloud: Served) -> Served:
    """A cloud without copies."""
    with Link(a_cloud.endpoint) as link:
        while run_ids := left(a_cloud.endpoint, "insurer"):
            link.ask(wire.Acknowledge("insurer", tuple(run_ids)))
    return a_cloud


def to(address: str) -> tuple[str, ...]:
    return "--cloud", address, "--vendor", "insurer", "--deadline", "20", "--interval", "0.05"


def copies(address: str, replies: int, sheet: str = "short") -> dict[str, bytes]:
    """So many finished runs: what is to be stored of each, by its id in hex."""
    for i in range(replies):
        finish(address, f"insurer/{sheet}", f"reply {i}")
    with Link(address) as link:
        reply = link.ask(wire.Collect("insurer"))
    assert isinstance(reply, wire.Deliveries) and len(reply.deliveries) == replies
    return {delivery.run_id.hex(): line_of(delivery) for delivery in reply.deliveries}


def spooled(directory: Path) -> dict[str, bytes]:
    """What whoever takes the files finds, by run; names that begin with a dot are not theirs."""
    files = [path for path in directory.glob("*") if not path.name.startswith(".")]
    assert all(re.fullmatch(r"[0-9a-f]{32}\.json", path.name) for path in files), files
    return {path.stem: path.read_bytes() for path in files}


# ---- a spool directory


def test_a_spool_gets_a_file_for_each_copy_and_none_comes_again(served: Served, tmp_path: Path) -> None:
    """For its owner only, in a directory that is made. Files may be taken away; a next start brings new ones only."""
    spool = tmp_path / "spool"
    expected = copies(served.endpoint, 3)
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0
    assert spooled(spool) == expected and left(served.endpoint, "insurer") == []
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.iterdir()} == {0o600}
    first, second, _ = spool.iterdir()
    first.unlink()
    second.rename(tmp_path / "taken")
    new = copies(served.endpoint, 1)
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0
    assert set(spooled(spool)) == set(expected) - {first.stem, second.stem} | set(new)


def test_a_spool_takes_more_than_one_answer_holds(served: Served, tmp_path: Path) -> None:
    ran = [finish(served.endpoint, "insurer/short", f"reply {i}").hex() for i in range(wire.MAX_COLLECTED + 6)]
    assert exit_code(main, *to(served.endpoint), "--spool", str(tmp_path / "spool")) == 0
    assert set(spooled(tmp_path / "spool")) == set(ran) and left(served.endpoint, "insurer") == []


def test_what_is_there_already_is_not_written_again(served: Served, tmp_path: Path) -> None:
    """The same file, as after a kill before the acknowledgement; which comes now. What the kill left is gone."""
    expected = copies(served.endpoint, 2)
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / ".unfinished").write_bytes(b"half of a copy")
    there = spool / f"{min(expected)}.json"
    there.write_bytes(expected[there.stem])
    before = there.stat()
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0
    after = there.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert spooled(spool) == expected and left(served.endpoint, "insurer") == []
    assert not (spool / ".unfinished").exists()


@pytest.mark.parametrize("kind", ["shorter", "as long", "link", "directory", "pipe"])
def test_a_name_that_something_else_has_is_never_written_over(
    served: Served, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file, nothing of it, and nothing is acknowledged; moved away, all is well."""
    ((run_id, line),) = copies(served.endpoint, 1).items()
    spool, outside = tmp_path / "spool", tmp_path / "outside"
    spool.mkdir()
    outside.write_bytes(line)
    there = spool / f"{run_id}.json"
    if kind == "link":
        there.symlink_to(outside)
    elif kind == "directory":
        there.mkdir()
    elif kind == "pipe":
        os.mkfifo(there)
    else:
        there.write_bytes(b"zimtstern" if kind == "shorter" else b"z" * len(line))
    before = there.lstat()
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 1
    said = f"error: --spool {spool}: {run_id}.json exists with other content and is not overwritten; the copy is "
    assert capfd.readouterr() == ("", f"{said}not acknowledged; move that file away and start again\n")
    assert there.lstat() == before and outside.read_bytes() == line and len(left(served.endpoint, "insurer")) == 1
    there.rename(tmp_path / "moved")
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0
    assert spooled(spool) == {run_id: line} and left(served.endpoint, "insurer") == []


def test_what_the_disk_does_not_take_is_not_acknowledged(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """A file may not become so large: one line, nothing under a copy's name, and the next start brings it."""
    expected, spool, errors = copies(served.endpoint, 1, "large"), tmp_path / "spool", tmp_path / "errors"
    pid = forks.vendor(*to(served.endpoint), "--spool", spool, errors=errors, most_file_bytes=10_000)
    assert forks.wait(pid) == 1
    said = "a copy could not be written (File too large); it is not acknowledged; correct the cause and start again"
    assert errors.read_text() == f"error: --spool {spool}: {said}\n"
    assert list(spool.iterdir()) == [] and len(left(served.endpoint, "insurer")) == 1
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0
    assert spooled(spool) == expected


def test_two_programs_do_not_share_a_spool(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """The second is told, and the first goes on; ended, it gives the directory back."""
    spool, errors, expected = tmp_path / "spool", tmp_path / "errors", copies(served.endpoint, 1)
    first = forks.vendor(*to(served.endpoint), "--follow", "--spool", spool, errors=errors)
    assert wait_until(lambda: spool.is_dir() and spooled(spool) == expected)
    second = forks.vendor(*to(served.endpoint), "--spool", spool, errors=errors)
    assert forks.wait(second) == 2
    said = "another llama.vendor writes there; give each program its own directory"
    assert errors.read_text() == f"error: --spool {spool}: {said}\n"
    os.kill(first, signal.SIGINT)
    assert forks.wait(first) == 130
    assert exit_code(main, *to(served.endpoint), "--spool", str(spool)) == 0


# ---- a command


def command(tmp_path: Path, script: str) -> str:
    """A shell script as ``--exec`` takes it, with a directory of its own as ``$1``."""
    (tmp_path / "command.sh").write_text(script)
    return shlex.join(["sh", str(tmp_path / "command.sh"), str(tmp_path)])


def test_a_command_gets_each_copy_and_what_it_has_taken_is_acknowledged(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the order of the runs, a line on its standard input, and the run's id; its stdout is the program's."""
    expected = copies(served.endpoint, 3)
    script = 'cat > "$1/$RUN_ID.taken"; echo took $RUN_ID'
    assert exit_code(main, *to(served.endpoint), "--exec", command(tmp_path, script)) == 0
    assert {path.stem: path.read_bytes() for path in tmp_path.glob("*.taken")} == expected
    assert capfd.readouterr() == ("".join(f"took {run_id}\n" for run_id in expected), "")
    assert left(served.endpoint, "insurer") == []


def test_a_command_that_reads_nothing_is_no_trouble(served: Served, tmp_path: Path) -> None:
    """Of copies that are larger than a pipe."""
    copies(served.endpoint, 3, "large")
    assert exit_code(main, *to(served.endpoint), "--exec", "true") == 0
    assert left(served.endpoint, "insurer") == []


def test_a_command_that_fails_gets_the_copy_again_with_back_off_and_in_the_end_it_is_kept(
    served: Served, forks: ForkServer, tmp_path: Path
) -> None:
    """What was stored before it is acknowledged. A line for each failure, without a word of the copy."""
    first, *others = copies(served.endpoint, 3)
    script = f'echo $(date +%s%N) $RUN_ID >> "$1/tries"; [ $RUN_ID = {first} ] || exit 3'
    flags = (*to(served.endpoint), "--exec", command(tmp_path, script))
    began = time.monotonic()
    assert forks.wait(forks.vendor(*flags, errors=tmp_path / "errors", FIRST_WAIT_S=0.05)) == 1
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4
    tries = [line.split()[1] for line in (tmp_path / "tries").read_text().splitlines()]
    assert tries == [first] + 5 * others[:1]
    assert [run_id.hex() for run_id in left(served.endpoint, "insurer")] == others
    again = [f"vendor: sh ended with exit code 3; the copy is tried again in {s} s" for s in (0.05, 0.1, 0.2, 0.4)]
    last = (
        "error: --exec: sh ended with exit code 3, at the last of 5 tries; the copy is not acknowledged; correct the "
    )
    assert (tmp_path / "errors").read_text().splitlines() == [*again, f"{last}command and start again"]


def test_following_it_tries_for_ever_and_waits_no_longer_than_it_says(
    served: Served, forks: ForkServer, tmp_path: Path
) -> None:
    """Mended after many tries, the command gets the copy, and those that came after."""
    (run_id,) = copies(served.endpoint, 1)
    script = 'echo x >> "$1/tries"; [ -e "$1/mended" ]'
    flags = (*to(served.endpoint), "--follow", "--exec", command(tmp_path, script))
    errors = tmp_path / "errors"
    pid = forks.vendor(*flags, errors=errors, FIRST_WAIT_S=0.01, MOST_WAIT_S=0.05)
    assert wait_until(lambda: errors.exists() and errors.read_text().count("0.05 s") > 10)
    assert left(served.endpoint, "insurer") == [bytes.fromhex(run_id)]
    (tmp_path / "mended").touch()
    finish(served.endpoint, "insurer/short", "another")
    assert wait_until(lambda: left(served.endpoint, "insurer") == [])
    os.kill(pid, signal.SIGINT)
    assert forks.wait(pid) == 130


def pids_in(path: Path, number: int) -> list[int]:
    """Process ids in a file, once it has so many."""
    assert wait_until(lambda: path.exists() and path.read_text().count("\n") >= number)
    return [int(line) for line in path.read_text().split()]


HANGS = 'sleep 1000 & echo $! >> "$1/pids"; echo $$ >> "$1/pids"; wait'


def test_a_command_that_hangs_is_ended_and_tried_again(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """With what it has started; also one that does not want to end."""
    copies(served.endpoint, 1)
    for script in (HANGS, f"trap '' TERM; {HANGS}; while true; do sleep 1; done"):
        (tmp_path / "pids").unlink(missing_ok=True)
        flags = (*to(served.endpoint), "--exec_timeout", "0.3", "--exec", command(tmp_path, script))
        pid = forks.vendor(*flags, errors=tmp_path / "errors", FIRST_WAIT_S=0.01, MOST_TRIES=2, END_S=0.2)
        wait_for_end(pids_in(tmp_path / "pids", 4))
        assert forks.wait(pid) == 1
        *_, again, last = (tmp_path / "errors").read_text().splitlines()
        assert again == "vendor: sh had not ended after 0.3 s; the copy is tried again in 0.01 s"
        assert last.startswith("error: --exec: sh had not ended after 0.3 s, at the last of 2 tries")
    assert len(left(served.endpoint, "insurer")) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_ends_the_program_ends_its_command(
    served: Served, forks: ForkServer, tmp_path: Path, number: int, code: int
) -> None:
    """At once; nothing is acknowledged."""
    copies(served.endpoint, 1)
    flags = (*to(served.endpoint), "--follow", "--exec", command(tmp_path, HANGS))
    pid = forks.vendor(*flags, errors=tmp_path / "errors")
    started = pids_in(tmp_path / "pids", 2)
    began = time.monotonic()
    os.kill(pid, number)
    assert forks.wait(pid) == code and time.monotonic() - began < 5
    wait_for_end(started)
    assert (tmp_path / "errors").read_text() == ("interrupted\n" if number == signal.SIGINT else "")
    assert len(left(served.endpoint, "insurer")) == 1


def test_a_signal_while_a_command_is_started_leaves_none_behind(
    served: Served, forks: ForkServer, tmp_path: Path
) -> None:
    """Before and after it is there, before and after it is waited for. It would say that it has ended."""
    copies(served.endpoint, 1)
    (tmp_path / "ended").touch()
    flags = (*to(served.endpoint), "--exec", command(tmp_path, 'sleep 0.2; echo $$ >> "$1/ended"'))
    for kill_at in range(1, 4):
        pid = forks.vendor(
            *flags, errors=tmp_path / "errors", kill_at=kill_at, number=signal.SIGINT, of_command_only=True
        )
        assert forks.wait(pid) == 130
        time.sleep(0.4)
        assert (tmp_path / "ended").read_text() == "" and len(left(served.endpoint, "insurer")) == 1, kill_at
    pid = forks.vendor(*flags, errors=tmp_path / "errors", kill_at=4, number=signal.SIGINT, of_command_only=True)
    assert forks.wait(pid) == 130 and (tmp_path / "ended").read_text() != ""  # it had ended


@pytest.mark.skipif(not SOAK, reason="make soak does it; the moments that matter are tried above")
def test_a_signal_at_any_moment_leaves_no_command_behind(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """A hundred of them, at random."""
    copies(served.endpoint, 1)
    dice, flags = random.Random(5), (*to(served.endpoint), "--follow", "--exec", command(tmp_path, HANGS))
    for _ in range(100):
        pid = forks.vendor(*flags, errors=tmp_path / "errors")
        time.sleep(dice.uniform(0.05, 0.12))
        os.kill(pid, signal.SIGINT)
        assert forks.wait(pid) in (130, -signal.SIGINT)  # the latter before it has begun
    started = pids_in(tmp_path / "pids", 0) if (tmp_path / "pids").exists() else []
    wait_for_end([pid for pid in started if alive(pid)])


# ---- stdout


def test_on_a_pipe_copies_are_looked_at_and_kept(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """Each time the same, the oldest; one line says so, and what stores them. Where there are none, nothing is said."""
    pipe, errors = tmp_path / "pipe", tmp_path / "errors"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert forks.wait(forks.vendor(*to(served.endpoint), errors=errors, stdout=pipe)) == 0
        assert (reader.read(), errors.read_text()) == (b"", "")
        ran = [finish(served.endpoint, "insurer/short", f"reply {i}").hex() for i in range(wire.MAX_COLLECTED + 1)]
        for _ in range(2):
            assert forks.wait(forks.vendor(*to(served.endpoint), errors=errors, stdout=pipe)) == 0
            assert [json.loads(line)["run_id"] for line in reader.read().splitlines()] == ran[:-1]
            assert errors.read_text() == (
                "vendor: nothing is acknowledged, so these copies come again, and only the oldest 64 are shown; "
                "--spool DIR, --exec COMMAND or >> FILE stores them, --acknowledge erases them at the cloud\n"
            )
            errors.unlink()
        assert forks.wait(forks.vendor(*to(served.endpoint), "--acknowledge", errors=errors, stdout=pipe)) == 0
        assert [json.loads(line)["run_id"] for line in reader.read().splitlines()] == ran
    assert left(served.endpoint, "insurer") == [] and errors.read_text() == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--follow",),
            "--follow requires storage, and stdout is not a file; --spool DIR, --exec COMMAND or >> FILE stores them; "
            "--acknowledge erases each copy at the cloud once it is written, even if its reader loses it",
        ),
        (("--spool", "{}", "--exec", "cat"), "--spool and --exec cannot be combined; omit one of them"),
        (
            ("--spool", "{}", "--acknowledge"),
            "--acknowledge is for stdout only; --spool acknowledges what it has stored, so omit --acknowledge",
        ),
        (
            ("--exec", "cat", "--acknowledge"),
            "--acknowledge is for stdout only; --exec acknowledges what it has stored, so omit --acknowledge",
        ),
        (("--exec", ""), "--exec: no command; write a program and its arguments"),
        (("--exec", "cat 'x"), "--exec: not a command line (No closing quotation); write a program and its arguments"),
        (
            ("--exec", "no-such-program x"),
            "--exec no-such-program: no such program, or this user may not run it; for shell syntax, write sh -c '…'",
        ),
        (("--exec", "cat", "--exec_timeout", "0"), "--exec_timeout must be greater than 0 seconds (got 0)"),
        (
            ("--spool", "{}/file"),
            "--spool {}/file: cannot be used (Not a directory); give a directory that this user "
            "may write to, or the name of a new one",
        ),
        (
            ("--spool", "{}/nowhere/spool"),
            "--spool {}/nowhere/spool: cannot be used (No such file or directory); give "
            "a directory that this user may write to, or the name of a new one",
        ),
    ],
)
def test_a_way_out_that_cannot_be_is_told_in_one_line_and_nobody_is_asked(
    flags: tuple[str, ...], said: str, forks: ForkServer, tmp_path: Path
) -> None:
    """Exit code 2."""
    (tmp_path / "file").touch()
    asked = (flag.format(tmp_path) for flag in flags)
    assert forks.wait(forks.vendor(*to("tcp://127.0.0.1:9"), *asked, errors=tmp_path / "errors")) == 2
    assert (tmp_path / "errors").read_text() == f"error: {said.format(tmp_path)}\n"


# ---- kills


def test_a_copy_is_on_the_disk_before_it_is_acknowledged(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """What a power cut would undo is synced: a file and its name, a line."""
    trace, errors = tmp_path / "trace", tmp_path / "errors"
    for flags, stdout, steps in (
        (("--spool", tmp_path / "spool"), None, ["unlink", "write", "fsync", "rename", "fsync directory"]),
        ((), tmp_path / "out", ["write", "fsync"]),
    ):
        copies(served.endpoint, 1)
        assert forks.wait(forks.vendor(*to(served.endpoint), *flags, errors=errors, stdout=stdout, trace=trace)) == 0
        begun = [line for line in trace.read_text().splitlines() if line != "finish"]
        assert begun[begun.index("Collect") + 1 :] == [*steps, "Acknowledge", "Collect"]
        trace.unlink()


def test_the_program_is_killed_at_every_step_of_spooling(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """Write, in its middle, fsync, rename, fsync, acknowledge: no file is torn, what is acknowledged has its file, and
    after the next start each copy has one."""
    for kill_at in range(1, 1000):
        expected, spool = copies(served.endpoint, 2), tmp_path / str(kill_at)
        flags = (*to(served.endpoint), "--spool", spool)
        code = forks.wait(forks.vendor(*flags, errors=tmp_path / "errors", kill_at=kill_at))
        there = spooled(spool)
        assert there.items() <= expected.items()
        acknowledged = set(expected) - {run_id.hex() for run_id in left(served.endpoint, "insurer")}
        assert acknowledged <= set(there), kill_at
        assert forks.wait(forks.vendor(*flags, errors=tmp_path / "errors")) == 0
        assert spooled(spool) == expected and left(served.endpoint, "insurer") == []
        assert not (spool / ".unfinished").exists()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    print(f"{kill_at - 1} steps")
    assert code == 0 and kill_at > 30 and (tmp_path / "errors").read_text() == ""


def test_the_program_is_killed_at_every_step_of_writing_into_a_file(
    served: Served, forks: ForkServer, tmp_path: Path
) -> None:
    """A line may be torn, and a copy be there twice; none is lost."""
    for kill_at in range(1, 1000, 1 if SOAK else 4):
        expected, out = copies(served.endpoint, 2), tmp_path / str(kill_at)
        code = forks.wait(forks.vendor(*to(served.endpoint), errors=tmp_path / "errors", stdout=out, kill_at=kill_at))
        acknowledged = set(expected) - {run_id.hex() for run_id in left(served.endpoint, "insurer")}
        assert {expected[run_id] for run_id in acknowledged} <= set(out.read_bytes().splitlines(keepends=True)), kill_at
        assert forks.wait(forks.vendor(*to(served.endpoint), errors=tmp_path / "errors", stdout=out)) == 0
        assert set(expected.values()) <= set(out.read_bytes().splitlines(keepends=True))
        assert left(served.endpoint, "insurer") == []
        if code == 0:
            break
        assert code == -signal.SIGKILL
    print(f"{kill_at - 1} steps")
    assert code == 0 and kill_at > 15 and (tmp_path / "errors").read_text() == ""


class Importer:
    """A command that stores copies in a directory, and dies at a step of its own.

    Args:
        directory: a new one.
        dies_at: at which step, over all copies and tries; 0 never.
    """

    def __init__(self, directory: Path, dies_at: int) -> None:
        written(directory, {"steps": "0\n", "stored": "", "importer.sh": IMPORTER})
        self.directory = directory
        self.command = shlex.join(["sh", str(directory / "importer.sh"), str(directory), str(dies_at)])

    def copies(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.directory.glob("*.json")}

    def stored(self) -> Counter[str]:
        """How often each."""
        return Counter((self.directory / "stored").read_text().split())


def test_an_importer_is_killed_at_every_step(served: Served, forks: ForkServer, tmp_path: Path) -> None:
    """Before, in the middle of and after storing: its copy is tried again, and each is stored."""
    for dies_at in range(1, 2 * STEPS_OF_IMPORTER + 1):
        importer, expected = Importer(tmp_path / str(dies_at), dies_at), copies(served.endpoint, 2)
        flags = (*to(served.endpoint), "--exec", importer.command)
        assert forks.wait(forks.vendor(*flags, errors=tmp_path / "errors", FIRST_WAIT_S=0.01)) == 0
        assert importer.copies() == expected and left(served.endpoint, "insurer") == []
        after_storing = dies_at % STEPS_OF_IMPORTER == 0
        assert sum(importer.stored().values()) == 2 + after_storing
    died = "vendor: sh was ended by signal 9; the copy is tried again in 0.01 s\n"
    assert (tmp_path / "errors").read_text() == 2 * STEPS_OF_IMPORTER * died


def test_the_program_is_killed_at_every_step_of_running_a_command(
    served: Served, forks: ForkServer, tmp_path: Path
) -> None:
    """SOAK: and its importer is killed, too. What is acknowledged is stored; after the next start everything is."""
    for dies_at in range(STEPS_OF_IMPORTER + 1 if SOAK else 1):
        for kill_at in range(1, 1000, 1 if SOAK else 4):
            importer = Importer(tmp_path / f"{dies_at}-{kill_at}", dies_at)
            expected = copies(served.endpoint, 1)
            flags = (*to(served.endpoint), "--exec", importer.command)
            errors = tmp_path / "errors"
            code = forks.wait(forks.vendor(*flags, errors=errors, kill_at=kill_at, FIRST_WAIT_S=0.01))
            if not left(served.endpoint, "insurer"):
                assert importer.copies() == expected
            assert forks.wait(forks.vendor(*flags, errors=errors, FIRST_WAIT_S=0.01)) == 0
            assert importer.copies() == expected and left(served.endpoint, "insurer") == []
            if code == 0:
                break
            assert code == -signal.SIGKILL
        print(f"{kill_at - 1} steps")
        assert code == 0 and kill_at > 15


class Mortal:
    """A cloud at an address of its own that dies at a step, and is started again."""

    def __init__(self, forks: ForkServer, sheet_dir: Path, directory: Path) -> None:
        self.forks, self.sheet_dir, self.record, self.errors = (
            forks,
            sheet_dir,
            directory / "runs.sqlite",
            directory / "log",
        )
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self.address = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        self.pid = 0

    def start(self, kill_at: int | None = None) -> None:
        self.pid = self.forks.cloud(self.address, self.sheet_dir, self.record, self.errors, kill_at)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.forks.wait(self.pid) == -signal.SIGKILL

    def left(self) -> set[str]:
        return {run_id.hex() for run_id in left(self.address, "insurer")}


def test_the_cloud_is_killed_at_every_step_of_handing_out(forks: ForkServer, sheet_dir: Path, tmp_path: Path) -> None:
    """Before and after it has collected, erased and folded: each copy gets its file, once, by the same program."""
    cloud = Mortal(forks, sheet_dir, tmp_path)
    for kill_at in range(1, 21) if SOAK else (8, 11, 14):  # collected, erased, about to say so
        cloud.start()
        expected, spool = copies(cloud.address, 2), tmp_path / str(kill_at)
        cloud.kill()
        cloud.start(kill_at)
        pid = forks.vendor(*to(cloud.address), "--follow", "--spool", spool, errors=tmp_path / "errors")
        assert forks.wait(cloud.pid) == -signal.SIGKILL
        cloud.start()
        assert wait_until(lambda: not cloud.left())
        os.kill(pid, signal.SIGINT)
        assert forks.wait(pid) == 130
        assert spooled(spool) == expected
        cloud.kill()


def test_program_consumer_and_cloud_are_killed_at_random(forks: ForkServer, sheet_dir: Path, tmp_path: Path) -> None:
    """Whoever takes the files from the spool moves them away at once. Each copy arrives, whole, and one that comes
    twice was taken before it was acknowledged."""
    dice, cloud, spool, kills = (
        random.Random(11),
        Mortal(forks, sheet_dir, tmp_path),
        tmp_path / "spool",
        Counter[str](),
    )
    flags, errors = (*to(cloud.address), "--follow", "--spool", spool), tmp_path / "errors"
    expected, taken, repeats = dict[str, bytes](), dict[str, bytes](), 0
    cloud.start()
    pid = forks.vendor(*flags, errors=errors)

    def take() -> None:
        nonlocal repeats
        for run_id, line in (spooled(spool) if spool.is_dir() else {}).items():
            repeats += run_id in taken
            assert taken.setdefault(run_id, line) == line
            (spool / f"{run_id}.json").unlink()

    for _ in range(100 if SOAK else 8):
        for _ in range(3):
            text = f"reply {len(expected)}"
            expected[finish(cloud.address, "insurer/short", text).hex()] = text.encode()
        time.sleep(dice.uniform(0, 0.05))
        if dice.random() < 0.5:
            take()
        if dice.random() < 0.3:
            cloud.kill()
            cloud.start()
            kills["cloud"] += 1
        else:
            os.kill(pid, signal.SIGKILL)
            assert forks.wait(pid) == -signal.SIGKILL
            pid = forks.vendor(*flags, errors=errors)
            kills["vendor"] += 1
    assert wait_until(lambda: not cloud.left())
    take()
    os.kill(pid, signal.SIGINT)
    assert forks.wait(pid) == 130
    cloud.kill()
    print(f"kills {dict(kills)}, {len(taken)} copies, {repeats} came again")
    assert {run_id: json.loads(line)["text"].encode() for run_id, line in taken.items()} == expected
