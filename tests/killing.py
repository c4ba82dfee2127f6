"""The third party's program, and a cloud, killed at a chosen step: real code in a process of its own, and SIGKILL.

A fork server imports everything once; every job is a child of it, which takes milliseconds. In a job that is to be
killed, functions that make steps (write, fsync, rename, ask …) count, and the k-th kills the process: before it does
anything, after it has done all, and a write also in the middle. Another signal may come in its place, and the names of
steps can be written down.

Knows: which functions are steps. Does not know: what is expected of whom.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ARRIVES_S = 0.05  # in which what was sent is on its way, also if the sender is then killed


class ForkServer:
    """A context manager; at its end all that it started is killed."""

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killing"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._running = set[int]()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._running):
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)
        self._process.communicate()

    def vendor(
        self,
        *argv: object,
        errors: Path,
        stdout: Path | None = None,
        kill_at: int | None = None,
        number: int = signal.SIGKILL,
        of_command_only: bool = False,
        trace: Path | None = None,
        most_file_bytes: int | None = None,
        **changed: float,
    ) -> int:
        """Start ``python -m llama.vendor``; its process id.

        Args:
            argv: its flags.
            errors: file that gets its stderr.
            stdout: file that its stdout is added to; by default nobody reads it.
            kill_at: at which step it is killed, from 1 on.
            number: by which signal.
            of_command_only: only starting a command and waiting for it are steps.
            trace: file that gets a line for each step that is begun.
            most_file_bytes: no file of its may become larger.
            changed: constants of ``llama.vendor.command_sink``.
        """
        return self._start(
            "vendor",
            argv=list(map(str, argv)),
            errors=str(errors),
            stdout=str(stdout or os.devnull),
            kill_at=kill_at,
            number=number,
            of_command_only=of_command_only,
            trace=str(trace) if trace else None,
            most_file_bytes=most_file_bytes,
            changed=changed,
        )

    def cloud(self, address: str, sheet_dir: Path, record: Path, errors: Path, kill_at: int | None = None) -> int:
        """Start a cloud of the small random model; its process id. Arguments as of :meth:`vendor`."""
        return self._start(
            "cloud",
            address=address,
            sheet_dir=str(sheet_dir),
            record=str(record),
            errors=str(errors),
            stdout=os.devnull,
            kill_at=kill_at,
        )

    def wait(self, pid: int) -> int:
        """The exit code of what was started, or minus the signal that ended it."""
        self._running.discard(pid)
        return self._ask({"wait": pid})

    def _start(self, kind: str, **job: Any) -> int:
        pid = self._ask({"kind": kind, **job})
        self._running.add(pid)
        return pid

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


# ---- in the fork server's children


class Steps:
    """Counts, and kills this process at the ``kill_at``-th; None never does."""

    def __init__(self, kill_at: int | None, number: int = signal.SIGKILL, trace: str | None = None) -> None:
        self._left, self._number = kill_at, number
        self._lock, self._write = threading.Lock(), os.write
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def step(self, rest_s: float = 0.0) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    time.sleep(rest_s)
                    os.kill(os.getpid(), self._number)

    def begun(self, name: str) -> None:
        if self._trace is not None:
            self._write(self._trace, f"{name}\n".encode())
        self.step()

    def around(self, owner: Any, name: str, rest_s: float = 0.0) -> None:
        """Make a function's beginning and its end steps."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.begun(_name_of(name, args))
            result = original(*args, **kwargs)
            self.step(rest_s)
            return result

        setattr(owner, name, stepped)

    def within_writes(self) -> None:
        """Make each write two, with a step before, between and after them."""

        def stepped(fd: int, content: Any) -> int:
            self.begun("write")
            written = self._write(fd, content[: len(content) // 2])
            self.step()
            if written == len(content) // 2:
                written += self._write(fd, content[written:])
            self.step()
            return written

        os.write = stepped


def _name_of(function: str, args: Sequence[Any]) -> str:
    if function == "fsync":
        return "fsync directory" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "fsync"
    return type(args[1]).__name__ if function == "begin" else function


def vendor(job: dict[str, Any]) -> None:
    """The program, to its end."""
    from llama.client.link import Link
    from llama.command import run
    from llama.vendor.program import main

    for name, value in job["changed"].items():
        setattr(importlib.import_module("llama.vendor.command_sink"), name, value)
    if job["most_file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["most_file_bytes"],) * 2)
    steps = Steps(job["kill_at"], job["number"], job["trace"])
    steps.around(subprocess.Popen, "__init__")
    steps.around(subprocess.Popen, "wait")
    if not job["of_command_only"]:
        for name in ("fsync", "rename", "unlink"):
            steps.around(os, name)
        steps.within_writes()
        steps.around(Link, "begin", ARRIVES_S)
        steps.around(Link, "finish")
    run(main, job["argv"])


def cloud(job: dict[str, Any]) -> None:
    """A cloud with keyless third parties, until it is killed."""
    from llama.cloud.control import ControlRequests
    from llama.cloud.provider import ProviderServices
    from llama.cloud.run_store import RunStore
    from llama.sheets import read_all
    from llama.tokenizer import Tokenizer
    from tests.support import Halves, Served

    steps = Steps(job["kill_at"])
    for owner, name in (
        (ControlRequests, "answer"),
        (RunStore, "collect"),
        (RunStore, "acknowledge"),
        (RunStore, "_checkpoint_wal"),
    ):
        steps.around(owner, name)
    tokenizer = Tokenizer(ROOT / "tests" / "data" / "tiny-llama3" / "tokenizer.model")
    with closing(RunStore(job["record"])) as record:
        services = ProviderServices.of(tokenizer, store=record, directory=read_all(job["sheet_dir"]))
        with Served(Halves(), tokenizer, services=services, address=job["address"]):
            threading.Event().wait()


JOBS: dict[str, Callable[[dict[str, Any]], None]] = {"vendor": vendor, "cloud": cloud}


def _run(job: dict[str, Any]) -> None:
    """In the child; never returns."""
    code = 1
    try:
        for path, fd in ((os.devnull, 0), (job["stdout"], 1), (job["errors"], 2)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, fd)
            os.close(opened)
        JOBS[job["kind"]](job)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def main(imported: Sequence[str] = ("llama.vendor", "tests.support")) -> None:
    for name in imported:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in llama.vendor, until run() takes over
    answers = os.fdopen(os.dup(1), "w")
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _run(request)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
