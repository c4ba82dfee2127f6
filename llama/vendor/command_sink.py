"""The sink that is a command, started once for each copy: its exit code says whether it has stored it.

The copy is on the command's standard input as one line of JSON, its run's id in hex in the environment as ``RUN_ID``.
The input is a file that is complete before the command starts: a command that reads none of it holds nothing up, and
one that outlives this program still reads all of it. Its stdout and stderr are this program's own. There is no shell.

Copies come one after the other. One that the command does not take holds up those after it.

Knows: processes. Does not know: the cloud, what the command does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from types import FrameType
from typing import BinaryIO

from llama.client.notices import Notices
from llama.disk import write_all
from llama.errors import SplitLlamaError, UsageError
from llama.vendor.collector import line_of
from llama.wire import Delivery

FIRST_WAIT_S, FACTOR, MOST_WAIT_S = 1.0, 2.0, 60.0  # between one try and the next: 1, 2, 4 … 60, 60 …
MOST_TRIES = 5  # unless it is tried for ever: with four waits, 15 s
END_S = 1.0  # that a command which is told to end has to do so


class CommandSink:
    """A command line that is given copies.

    Args:
        command: split into words as a shell does, and nothing else of a shell.
        timeout_s: a try that takes longer is ended, and has failed.
        for_ever: tried until it succeeds; otherwise :data:`MOST_TRIES` times.
        notices: told about each failure.

    Raises:
        UsageError: there is no such program.
    """

    at_once = 1  # each is acknowledged when it is stored, however long the next one takes
    acknowledges = True

    def __init__(self, command: str, *, timeout_s: float, for_ever: bool, notices: Notices) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as err:
            raise UsageError(f"--exec: not a command line ({err}); write a program and its arguments") from None
        if not self._words:
            raise UsageError("--exec: no command; write a program and its arguments")
        if shutil.which(self._words[0]) is None:
            raise UsageError(
                f"--exec {self._words[0]}: no such program, or not one that this user may run; there is "
                f"no shell: for one, write sh -c '…'"
            )
        self._timeout_s, self._notices = timeout_s, notices
        self._tries = math.inf if for_ever else MOST_TRIES
        self._name = PurePath(self._words[0]).name

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Returns when the command has taken each.

        Raises:
            SplitLlamaError: it has not taken one, however often it was tried.
        """
        for delivery in deliveries:
            self._hand_over(line_of(delivery), delivery.run_id.hex())

    def close(self) -> None:
        """Nothing to give back."""

    def _hand_over(self, line: bytes, run_id: str) -> None:
        wait_s = FIRST_WAIT_S
        for number in itertools.count(1):
            problem = self._try(line, run_id)
            if problem is None:
                return
            if number >= self._tries:
                raise SplitLlamaError(
                    f"--exec: {self._name} {problem}, at the last of {number} tries; the copy is not "
                    f"acknowledged: mend the command, and start again"
                )
            self._notices.tell(f"{self._name} {problem}; the copy is tried again in {wait_s:g} s")
            time.sleep(wait_s)
            wait_s = min(wait_s * FACTOR, MOST_WAIT_S)

    def _try(self, line: bytes, run_id: str) -> str | None:
        """Run the command once; what was wrong, in words, or None. It does not outlive this, but by a SIGKILL."""
        process = None
        try:
            with _input(line) as file, _signals_wait():
                process = subprocess.Popen(
                    self._words, stdin=file, env={**os.environ, "RUN_ID": run_id}, start_new_session=True
                )
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            return f"had not ended after {self._timeout_s:g} s"
        except OSError as err:
            return f"cannot be started ({err.strerror})"
        finally:
            if process is not None and process.poll() is None:
                _end(process)
        if code < 0:
            return f"was ended by signal {-code}"
        return f"ended with exit code {code}" if code else None


def _input(line: bytes) -> BinaryIO:
    """A file without a name that holds the line, in memory where that can be."""
    if sys.platform == "linux":
        file: BinaryIO = os.fdopen(os.memfd_create("copy"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    write_all(file.fileno(), line)
    file.seek(0)
    return file


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that runs, and what it has started: SIGTERM, and a second later SIGKILL."""
    try:
        _signal_all(process, signal.SIGTERM)
    finally:  # also if Ctrl-C comes once more
        if process.poll() is None:
            _signal_all(process, signal.SIGKILL)


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a command that runs and to what it has started, and give it time to end."""
    with contextlib.suppress(PermissionError, ProcessLookupError, subprocess.TimeoutExpired):  # it may run as another
        os.killpg(process.pid, number)
        process.wait(END_S)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals that end this program come afterwards: in between there would be a command that nobody ends."""
    came = list[int]()

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {
        each: signal.signal(each, remember)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(each))
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)
