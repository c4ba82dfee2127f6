"""Real clouds and devices: cloud_main.py and edge_main.py as processes of their own, always ended.

Knows: the two command lines, the "ready" line, torchrun. Linux only: children are found through /proc.
Knows nothing about: what is computed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
READY_S = 120.0  # a busy machine loads several ranks of torch slowly
END_S = 60.0
PLACES = 8
ANY_PORT = "tcp://127.0.0.1:*"


@dataclass
class Cloud:
    """A running cloud.

    Attributes:
        launcher: torchrun, or rank 0 itself where it was started with plain python.
        log: file with all that the processes print.
        address: where it listens.
        pid: rank 0's.
        ready_s: seconds from the start to the "ready" line.
    """

    launcher: subprocess.Popen[bytes]
    log: Path
    address: str
    pid: int
    ready_s: float

    def output(self) -> str:
        """All that was printed so far."""
        return self.log.read_text(errors="replace")

    def said(self) -> list[str]:
        """The lines so far, without events of every day."""
        return without_events(self.output())

    def ranks(self) -> list[int]:
        """Process ids of the ranks, by rank."""
        if self.launcher.pid == self.pid:
            return [self.pid]
        return sorted(children(self.launcher.pid), key=_rank_of)

    def wait(self, timeout_s: float = END_S) -> int:
        """Exit code of the launcher.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self.launcher.wait(timeout_s)


def without_events(output: str) -> list[str]:
    """The lines that a cloud printed, without its log's of level info."""
    return [line for line in output.splitlines() if not re.match(r"time=\S+ level=info event=", line)]


@contextlib.contextmanager
def cloud(
    ckpt_dir: str | Path, *flags: object, ranks: int | None = None, env: Mapping[str, str] | None = None,
    bind: str = ANY_PORT, root: Path = ROOT,
) -> Iterator[Cloud]:  # fmt: skip
    """A cloud that is ready, by default on a free port of this machine.

    Args:
        ckpt_dir: the cloud's half.
        flags: further flags of cloud_main.py.
        ranks: started by torchrun; None is plain python.
        env: added to this process's environment.
        bind: where it listens.
        root: the checkout whose program it is.

    Raises:
        AssertionError: it ended, or was not ready in time; with what it printed.
    """
    with tempfile.TemporaryDirectory() as directory:
        log, started = Path(directory) / "log", time.monotonic()
        launcher = launch(log, "--ckpt_dir", ckpt_dir, *flags, ranks=ranks, env=env, bind=bind, root=root)
        try:
            ready = _wait_for_ready(launcher, log)
            yield Cloud(launcher, log, ready[1], int(ready[2]), time.monotonic() - started)
        finally:
            end(launcher)


def launch(
    log: Path, *flags: object, ranks: int | None = None, env: Mapping[str, str] | None = None, bind: str = ANY_PORT,
    root: Path = ROOT,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start cloud_main.py with all output into ``log``; the caller ends it with :func:`end`.

    It has :data:`PLACES`, unless ``flags`` say how many: to clear 4 GiB takes seconds.
    """
    if not {"--max_batch_size", "--kv_cache_gb"} & {*map(str, flags)}:
        flags = (*flags, "--max_batch_size", PLACES)
    python = [sys.executable]
    if ranks is not None:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*python, str(root / "cloud_main.py"), "--bind", bind, *map(str, flags)]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(env or {})}, cwd=root)


def end(launcher: subprocess.Popen[bytes]) -> None:
    """SIGTERM; what has not ended then is killed, ranks included."""
    ranks = children(launcher.pid)  # before the launcher goes: nobody else knows whose they are
    if launcher.poll() is None:
        launcher.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(15 if ranks else 1)
    if launcher.poll() is None and not ranks:
        launcher.send_signal(signal.SIGTERM)  # the second does not wait for running sessions
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(15)
    if launcher.poll() is None:
        launcher.kill()
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.wait(END_S)


class Mortal:
    """A cloud that is killed and started again at its address; a context manager. Arguments as of :func:`cloud`.

    Attributes:
        starts: how often it was started.
    """

    def __init__(
        self, ckpt_dir: str | Path, *flags: object, ranks: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._flags, self._ranks, self._env = ("--ckpt_dir", ckpt_dir, *flags), ranks, env
        self._directory = tempfile.TemporaryDirectory()
        self._ready: Cloud | None = None
        self.starts, self._ready_at = 0, 0.0
        self._start(ANY_PORT)

    def __enter__(self) -> Mortal:
        try:
            self.address = self.running.address
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(self._launcher)
        self._watcher.join()
        self._directory.cleanup()

    @property
    def running(self) -> Cloud:
        """The present start, once it is ready."""
        self._watcher.join()
        assert self._ready is not None, "the cloud is not ready; what it said stands above"
        return self._ready

    @property
    def back_at(self) -> float:
        """When the present start was ready, in monotonic seconds."""
        assert self.running
        return self._ready_at

    def restart(self, rank: int | None = None, away_s: float = 0.0) -> Cloud:
        """SIGKILL, to one rank or to the only process; ``away_s`` after all has ended it is started again.

        Returns:
            What was killed.
        """
        killed = self.running
        os.kill(killed.launcher.pid if rank is None else killed.ranks()[rank], signal.SIGKILL)
        killed.wait()
        time.sleep(away_s)
        self._start(self.address)
        return killed

    def _start(self, bind: str) -> None:
        log, started = Path(self._directory.name) / f"log{self.starts}", time.monotonic()
        self._launcher = launcher = launch(log, *self._flags, ranks=self._ranks, env=self._env, bind=bind)
        self.starts += 1

        def watch() -> None:
            self._ready = None
            ready = _wait_for_ready(launcher, log, every_s=0.002)
            self._ready_at = time.monotonic()
            self._ready = Cloud(launcher, log, ready[1], int(ready[2]), self._ready_at - started)

        self._watcher = threading.Thread(target=watch)
        self._watcher.start()


class Footprint(NamedTuple):
    """What a process takes: bytes resident in memory, open file descriptors, threads."""

    resident: int
    files: int
    threads: int


def footprint(pid: int) -> Footprint:
    """What a process takes now."""
    proc = Path(f"/proc/{pid}")
    resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Footprint(resident, len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())))


def ask(
    ckpt_dir: str | Path, address: str, prompt_file: str | Path, *flags: object, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``edge_main.py --json`` answers, in a process of its own.

    Raises:
        AssertionError: it failed, or printed something else than one JSON object.
    """
    with edge(ckpt_dir, address, prompt_file, "--json", *flags, env=env) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.count("\n") == 1, stdout
    answer: dict[str, Any] = json.loads(stdout)
    return answer


@contextlib.contextmanager
def edge(
    ckpt_dir: str | Path, address: str, prompt_file: str | Path, *flags: object, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A device at work, killed if it still runs at the end; its stdout and stderr are pipes."""
    command = [sys.executable, str(ROOT / "edge_main.py"), "--ckpt_dir", str(ckpt_dir), "--cloud", address]
    command += ["--prompt_file", str(prompt_file), *map(str, flags)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, cwd=ROOT
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def at_a_terminal(
    command: Sequence[str], answer: str, *choices: str, cwd: Path = ROOT, timeout_s: float = 90.0
) -> tuple[int, str]:
    """Run a command in a terminal, where the person answers its questions.

    Args:
        command: the command.
        answer: to a question that ends with ``[y/N]``.
        choices: at the last look, one after another; after them, ``y``.
        cwd: where it runs.
        timeout_s: limit.

    Returns:
        Its exit code (that of SIGKILL if it takes longer than ``timeout_s``), and the screen.
    """
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvp(command[0], list(command))
    shown, deadline, answered, left = "", time.monotonic() + timeout_s, 0, list(choices)
    while time.monotonic() < deadline:
        if not select.select([screen], [], [], 1)[0]:
            continue
        try:
            data = os.read(screen, 1 << 16)
        except OSError:  # the command has ended
            break
        shown += data.decode(errors="replace")
        for question in re.findall(r"\[y/N\]|Your choice:", shown)[answered:]:
            typed = answer if question == "[y/N]" else left.pop(0) if left else "y\n"
            os.write(screen, typed.encode())
            answered += 1
    else:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(screen)  # only now: a command that has no terminal any more gets SIGHUP
    return code, shown


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = END_S, every_s: float = 0.05) -> bool:
    """True as soon as ``condition()`` holds, False if it does not within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _rank_of(pid: int) -> int:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(v.partition(b"=")[2]) for v in variables if v.startswith(b"RANK="))


def _wait_for_ready(launcher: subprocess.Popen[bytes], log: Path, every_s: float = 0.05) -> re.Match[str]:
    pattern = re.compile(r"^.*ready in .* listening on (tcp://\S+), pid (\d+)$", re.MULTILINE)
    found: re.Match[str] | None = None

    def ready_or_ended() -> bool:
        nonlocal found
        found = pattern.search(log.read_text(errors="replace"))
        return found is not None or launcher.poll() is not None

    wait_until(ready_or_ended, READY_S, every_s)
    assert found is not None, f"the cloud is not ready; it said:\n{log.read_text(errors='replace')}"
    return found
