"""Claims about a peer that is no cloud, written by hand: what it sends costs no program its memory or its time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llama import memory_ceiling
from llama.client.link import Link
from llama.errors import CloudUnreachable, MemoryCeilingReached, UsageError
from llama.memory_ceiling import GrowthCeiling, MemoryCeiling, own_memory
from tests.pages import controller_of, device_of
from tests.processes import wait_until
from tests.raw import MORE, Listening, frame
from tests.support import ROOT, run_main
from tests.volumes import SOAK

ALLOWED = 64 << 20


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def flood(raw: socket.socket) -> None:
    """One message of frames without end, in answer to the first request."""
    raw.recv(1 << 16)
    piece = MORE * (1 << 15)
    while True:
        raw.sendall(piece)


def low_ceiling() -> MemoryCeiling:
    return GrowthCeiling(ALLOWED, time.monotonic, lambda: own_memory() or 0)


@pytest.mark.process
def test_frames_without_end_end_the_wait_for_an_answer_and_every_pause() -> None:
    """With what was taken, and long before the deadline; afterwards nothing of it is kept.

    In a process that is new, and the allocator is asked to hand back what is free: by itself it now and then keeps it.
    """
    ended = run_main(
        "-c",
        """
import ctypes
from llama import wire
from llama.client.link import Link
from llama.errors import MemoryCeilingReached
from tests.processes import wait_until
from tests.raw import Listening
from tests.test_device_ceiling import ALLOWED, flood, low_ceiling, own_memory
before = own_memory()
for wait in (lambda link: link.hello(), lambda link: (link.begin(wire.Hello(wire.VERSION)), link.pause(3600))):
    with Listening(flood) as peer:
        with Link(peer.address, deadline_s=3600, on_notice=lambda _: None, ceiling=low_ceiling()) as link:
            try:
                wait(link)
            except MemoryCeilingReached as error:
                print(error.exit_code, error)
    print(wait_until(lambda: ctypes.CDLL(None).malloc_trim(0) >= 0 and own_memory() < before + ALLOWED))
""",
    )
    errors, given_back = (lines := ended.stdout.splitlines())[::2], lines[1::2]
    assert all(error.startswith("3 this program uses") for error in errors), lines
    assert given_back == ["True", "True"], ended.stderr


def test_a_page_ends_its_program_when_the_ceiling_is_reached(tiny_split: Callable[..., Path]) -> None:
    """Whoever of it waits: the run, or whoever looks for the cloud."""
    device = device_of(tiny_split() / "edge")
    with Listening(flood) as peer:
        for looks_out in (True, False):
            sheets = ROOT / "examples" / "sheets"
            page = controller_of(
                device, peer.address, sheet_dir=sheets, tokens=4, deadline_s=60.0, ceiling=low_ceiling()
            )
            if looks_out:
                page.start()
            else:
                page.look_at("birthday")
                page.begin("birthday", agree=True)
            assert wait_until(lambda page=page: page.events.ended)  # type: ignore[misc]
            assert isinstance(page.failure, MemoryCeilingReached) and page.close()


def test_what_the_program_takes_itself_is_nobody_elses_doing() -> None:
    """Loading raises the ceiling of growth, and is counted by a fixed one only where it does not fit."""
    used = 1 << 30
    ceiling = GrowthCeiling(512 << 20, Clock(), lambda: used)
    with ceiling.growing():
        used = 8 << 30
        ceiling.check()
    ceiling.check()
    used = (10 << 30) - 1
    ceiling.check()  # a quarter more
    used = (10 << 30) + 1
    with pytest.raises(MemoryCeilingReached, match=r"10\.00 GiB of memory, over its limit of 10\.00"):
        ceiling.check()
    used = 1 << 30
    fixed = MemoryCeiling(2 << 30, Clock(), lambda: used, memory_ceiling.DEVICE_WORDS)
    with pytest.raises(
        UsageError, match=r"--max_memory_gb 2\.00: the loaded half and its cache take 3\.00 GiB; set a higher"
    ):
        with fixed.growing():
            used = 3 << 30
    with pytest.raises(MemoryCeilingReached, match=r"this device uses 3\.00.*--max_memory_gb.*--cloud"):
        fixed.check()


@pytest.mark.parametrize("gib", [0.0, -1.0, 0.001, float("nan")])
def test_less_than_there_is_is_no_ceiling(gib: float) -> None:
    with pytest.raises(
        UsageError, match=r"--max_memory_gb .*: the process uses .* GiB before loading; set a higher limit"
    ):
        memory_ceiling.of_a_client(gib)


def test_a_reply_that_libzmq_passes_over_is_not_waited_for_for_ever() -> None:
    """Four bytes before the empty frame look like a request's number; nothing comes of it, again and again."""

    def say(raw: socket.socket) -> None:
        raw.recv(1 << 16)
        while True:
            raw.sendall(frame(b"abcd", more=True) + MORE + frame(b"not a reply"))
            time.sleep(0.01)

    with Listening(say) as peer, Link(peer.address, deadline_s=0.5, on_notice=lambda _: None) as link:
        begun = time.monotonic()
        with pytest.raises(CloudUnreachable):
            link.hello()
        assert time.monotonic() - begun < 5


def test_a_reply_that_comes_byte_by_byte_is_silence() -> None:
    """Its beginning is dropped with the connection."""

    def say(raw: socket.socket) -> None:
        raw.recv(1 << 16)
        for byte in MORE + b"\x00\xff" + bytes(255):
            raw.sendall(bytes([byte]))
            time.sleep(0.02)

    with Listening(say) as peer, Link(peer.address, deadline_s=0.5, on_notice=lambda _: None) as link:
        begun = time.monotonic()
        with pytest.raises(CloudUnreachable, match="no answer"):
            link.hello()
        assert time.monotonic() - begun < 5


PROGRAMS = [["edge_main.py", "--prompt_id", "gifts"]] + (
    [
        ["edge_main.py", "--web", "--deadline", "60"],
        ["-m", "llama.vendor", "--vendor", "insurer"],
        ["-m", "llama.status"],
    ]
    if SOAK
    else []
)


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_frames_without_end_end_a_program_with_one_line_and_exit_code_3(
    program: list[str], tiny_split: Callable[..., Path]
) -> None:
    """As soon as it looks, which it does twenty times a second: on a busy machine some GiB may have come by then."""
    half = ["--ckpt_dir", str(tiny_split() / "edge")] if program[0] == "edge_main.py" else []
    with Listening(flood) as peer:
        command = [sys.executable, *program, *half, "--cloud", peer.address]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, ending, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ending)
    assert process.returncode == 3, said
    *notices, error = said.splitlines()
    assert error.startswith("error: this ") and "the cloud may send endless messages" in error
    assert all("no answer from" in notice for notice in notices)
    print(f"{used.ru_maxrss >> 10} MiB at most")
    assert used.ru_maxrss << 10 < (4 << 30)
