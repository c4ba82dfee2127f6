"""The sink that starts a command for each copy. The exit code says whether the command has stored the copy.

The command gets the copy on standard input as one line of JSON, and its run's id in hex as ``RUN_ID`` in the
environment. The input is a file that is complete before the command starts. So a command that reads nothing does not
block, and one that outlives this program can still read everything. The command inherits stdout and stderr. There is no
shell.

Copies come one after the other. If the command does not take a copy, the later ones wait.

Knows: processes. Does not know: the cloud, the purpose of the command.
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

FIRST_WAIT_S, FACTOR, MOST_WAIT_S = 1.0, 2.0, 60.0  # between tries: 1, 2, 4 … 60, 60 …
MOST_TRIES = 5  # with four waits, 15 s together; unless for_ever is set
END_S = 1.0  # for a command to end after SIGTERM


class CommandSink:
    """Sink that runs a command line for each copy.

    Args:
        command: command line. It is split into words as in a shell, but no other shell syntax works.
        timeout_s: maximum seconds of a try. A longer one is ended and counts as failed.
        for_ever: try until the command succeeds; otherwise :data:`MOST_TRIES` times.
        notices: gets each failure.

    Raises:
        UsageError: there is no such program.
    """

    at_once = 1  # so that each copy is acknowledged when it is stored, even if the next one takes long
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
                f"--exec {self._words[0]}: no such program, or this user may not run it; for shell syntax, "
                f"write sh -c '…'"
            )
        self._timeout_s, self._notices = timeout_s, notices
        self._tries = math.inf if for_ever else MOST_TRIES
        self._name = PurePath(self._words[0]).name

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Give each copy to the command, and return when it has taken all.

        Raises:
            SplitLlamaError: the command has not taken a copy in any try.
        """
        for delivery in deliveries:
            self._hand_over(line_of(delivery), delivery.run_id.hex())

    def close(self) -> None:
        """Do nothing; this sink holds no resources."""

    def _hand_over(self, line: bytes, run_id: str) -> None:
        wait_s = FIRST_WAIT_S
        for number in itertools.count(1):
            problem = self._try(line, run_id)
            if problem is None:
                return
            if number >= self._tries:
                raise SplitLlamaError(
                    f"--exec: {self._name} {problem}, at the last of {number} tries; the copy is not "
                    f"acknowledged; correct the command and start again"
                )
            self._notices.tell(f"{self._name} {problem}; the copy is tried again in {wait_s:g} s")
            time.sleep(wait_s)
            wait_s = min(wait_s * FACTOR, MOST_WAIT_S)

    def _try(self, line: bytes, run_id: str) -> str | None:
        """Run the command once. Return the problem in words, or None.

        The command does not outlive this call, except if SIGKILL ends this program.
        """
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
    """Return an anonymous file with the line, in memory if the system can do that."""
    if sys.platform == "linux":
        file: BinaryIO = os.fdopen(os.memfd_create("copy"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    write_all(file.fileno(), line)
    file.seek(0)
    return file


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a running command and its children: send SIGTERM, and a second later SIGKILL."""
    try:
        _signal_all(process, signal.SIGTERM)
    finally:  # also after another Ctrl-C
        if process.poll() is None:
            _signal_all(process, signal.SIGKILL)


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a running command and its children, and wait up to ``END_S`` for the command."""
    with contextlib.suppress(PermissionError, ProcessLookupError, subprocess.TimeoutExpired):  # another user's
        os.killpg(process.pid, number)
        process.wait(END_S)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Defer signals that end this program until the block is over. In between, a command would be left running."""
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
