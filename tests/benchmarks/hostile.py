"""One listed key that does its worst within its budgets: the dearest message of each type, heavy steps, empty runs.

Each kind runs in a process of its own until it is killed. It sends no more bytes, requests and runs a second than one
key may by default, and waits as a device does when it is told ``busy``; so it never loses its connection.

Knows: the wire, keys. Does not know: what is measured.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import zmq

from llama import wire
from llama.checkpoint.halves import read_half, tokenizer_of
from llama.cloud.rate_limit import MAX_MB_S_PER_KEY, MAX_REQUESTS_S_PER_KEY, MAX_RUNS_S_PER_KEY
from llama.dtypes import DTYPES
from llama.keys import LinkKeys
from llama.wire import (
    Acknowledge,
    Close,
    Collect,
    Error,
    FetchSheet,
    Finish,
    Forget,
    Hello,
    ListSheets,
    Open,
    Opened,
    Publish,
    Request,
    Status,
    Step,
    Welcome,
    Withdraw,
)
from tests.support import Peer, frames_of

WITHIN = 0.95  # of every budget
VENDOR = "insurer"
CONNECTIONS = 4

Messages = Iterator[list[bytes]]


class Hostile:
    """What one key knows of a cloud, and the messages that it makes of it.

    Args:
        address: of the cloud.
        keys: its own, of the role that its messages need.
        half: the device's half of the checkpoint, for the longest tokens that there are.
    """

    def __init__(self, address: str, keys: LinkKeys, half: Path) -> None:
        self.address, self.keys, self._half = address, keys, half
        with Peer(address, keys=keys) as peer:
            welcome = wire.decode_reply(_answer(peer, frames_of(Hello(wire.VERSION))))
        assert isinstance(welcome, Welcome), welcome
        self.welcome = welcome

    # ---- messages without a session, the dearest of which is found out

    def candidates(self) -> dict[str, dict[str, Callable[[], list[bytes]]]]:
        """By type, and by what is dear about them."""
        context = self.welcome.max_seq_len

        def header(request: Request) -> Callable[[], list[bytes]]:
            return lambda: frames_of(request)

        tail = b"\xa4type\xa5hello\xa7version\x03"
        return {
            "Hello": {
                "as it is": header(Hello(wire.VERSION)),
                "its type behind an array": lambda: [b"\x83\xa1x\xdd\x00\x00\xea\x60" + bytes(60_000) + tail],
                "a long text": lambda: [b"\x82\xa4type\xa5hello\xa7version\xda\xf0\x00" + b"x" * 0xF000],
            },
            "Open": {
                "a million resumed ids": header(self.open(resumed_ids=(1,) * 1_040_000)),
                "as many resumed ids as the context has": header(self.open(resumed_ids=(2**31 - 1,) * (context - 1))),
                "of another checkpoint": header(self.open(fingerprint=bytes(32), resumed_ids=(1,) * (context - 1))),
            },
            "Step": {"the largest, of no session": lambda: self.step(bytes(16), 1, 0)},
            "Close": {"of no session": header(Close(bytes(16), 1))},
            "ListSheets": {"as it is": header(ListSheets())},
            "FetchSheet": {
                "the largest": header(FetchSheet(f"{VENDOR}/large")),
                "of none": header(FetchSheet("x" * 200)),
            },
            "Collect": {"all that there is": header(Collect(VENDOR))},
            "Acknowledge": {
                "of none": lambda: frames_of(Acknowledge(VENDOR, tuple(os.urandom(16) for _ in range(64)))),
            },
            "Publish": {
                "long": header(Publish(VENDOR, "long", f'questions = ["{"x" * 60_000}"]')),
                "many parts": header(Publish(VENDOR, "parts", 'questions = ["x"' + ',"x"' * 15_000 + "]")),
                "no sheet": header(Publish(VENDOR, "none", "a.b.c.d.e.f = 1\n" * 4000)),
            },
            "Withdraw": {"of none": header(Withdraw(VENDOR, "none"))},
            "Forget": {"of none": lambda: frames_of(Forget(os.urandom(16)))},
            "Status": {"as it is": header(Status())},
        }  # fmt: skip

    def open(self, **changes: object) -> Open:
        fields: dict[str, Any] = {
            "run_id": os.urandom(16), "fingerprint": self.welcome.fingerprint, "prompt_tokens": 1, "temperature": 0.0,
            "top_p": 0.9, "seed": 1, "stop_ids": (),
        }  # fmt: skip
        return Open(**(fields | changes))

    def step(
        self, session: bytes, seq: int, position: int, rows: int | None = None, want: int = 0, value: float = 0.1
    ) -> list[bytes]:
        """A Step, by default the largest."""
        welcome, rows = self.welcome, self.welcome.max_rows if rows is None else rows
        hidden = torch.full((rows, welcome.dim), value, dtype=DTYPES[welcome.dtype])
        return frames_of(Step(session, seq, position, want, welcome.dtype, rows, welcome.dim), hidden)

    def again_and_again(self, make: Callable[[], list[bytes]], sent: Any) -> None:
        """One message without a session, over several connections."""
        peers, pace = [Peer(self.address, zmq.REQ, self.keys) for _ in range(CONNECTIONS)], Pace()
        idle = set(range(CONNECTIONS))
        while True:
            for which in list(idle):
                frames = make()
                pace.wait(sum(map(len, frames)))
                peers[which].send(*frames)
                idle.discard(which)
            for which in set(range(CONNECTIONS)) - idle:
                if peers[which].socket.poll(1):
                    _heed(peers[which].receive_bytes())
                    idle.add(which)
                    sent.value += 1

    # ---- whole sessions

    def heavy_steps(self, sent: Any) -> None:
        """Four sessions that compute the end of the context again and again, with as many ids drawn as may be."""
        rows, last = self.welcome.max_rows, self.welcome.max_seq_len - self.welcome.max_rows
        open_fields = {"prompt_tokens": last + rows - wire.MAX_WANT + 1, "temperature": 100.0, "top_p": 1.0}
        self._pump(open_fields, lambda n: (min(rows * n, last), rows, wire.MAX_WANT if rows * n >= last else 0), sent)

    def fresh_prompts(self, sent: Any) -> None:
        """Four sessions of prompts as long as the context, one after the other."""
        rows, chunks = self.welcome.max_rows, self.welcome.max_seq_len // self.welcome.max_rows
        self._pump({"prompt_tokens": rows * chunks}, lambda n: (rows * n, rows, 0) if n < chunks else None, sent)

    def chunks_of_one_row(self, sent: Any) -> None:
        """Prompts that are sent row by row."""
        most = self.welcome.max_seq_len - 1
        self._pump({"prompt_tokens": most}, lambda n: (n, 1, 0) if n < most else None, sent)

    def damaged_steps(self, sent: Any) -> None:
        """Rows that are NaN, which are refused before the model is asked."""
        self._pump({"prompt_tokens": 1}, lambda n: (0, 1, 1), sent, value=float("nan"))

    def dear_decoding(self, sent: Any) -> None:
        """Four sessions that decode with ids drawn from the whole vocabulary."""
        most = self.welcome.max_seq_len
        open_fields = {"prompt_tokens": 1, "temperature": 100.0, "top_p": 1.0}
        self._pump(open_fields, lambda n: (n, 1, 1) if n < most else None, sent)

    def _pump(
        self, open_fields: dict[str, Any], rows_of: Callable[[int], tuple[int, int, int] | None], sent: Any,
        value: float = 0.1,
    ) -> None:  # fmt: skip
        """Four sessions that send step after step, as fast as they are answered; each session's n-th is at what
        position, of how many rows, with how many ids wanted; None begins another session.
        """
        pace, peers = Pace(), [Peer(self.address, keys=self.keys) for _ in range(4)]
        sessions, numbers = [_opened(peer, self.open(**open_fields)) for peer in peers], [0] * 4
        sending = set[int]()
        while True:
            for which, peer in enumerate(peers):
                if which in sending:
                    if not peer.socket.poll(1):
                        continue
                    reply = wire.decode_reply(peer.receive_bytes())
                    sending.discard(which)
                    if not isinstance(reply, Error):
                        sent.value += 1
                    elif reply.code == "not_finite":
                        assert value != value
                        sent.value += 1
                    else:
                        assert reply.code == "busy", reply
                        time.sleep(max(0.1, reply.retry_after_s or 0.0))
                        numbers[which] -= 1
                step = rows_of(numbers[which])
                if step is None:
                    _answer(peer, frames_of(Close(sessions[which], numbers[which] + 1)))
                    sessions[which], numbers[which] = _opened(peer, self.open(**open_fields)), 0
                    step = rows_of(0)
                assert step is not None
                frames = self.step(sessions[which], numbers[which] + 1, *step, value=value)
                pace.wait(sum(map(len, frames)))
                peer.send(*frames)
                numbers[which] += 1
                sending.add(which)

    def empty_runs(self, sent: Any) -> None:
        """Open, Finish without output, Close."""
        pace = Pace(requests_s=MAX_RUNS_S_PER_KEY)
        with Peer(self.address, keys=self.keys) as peer:
            while True:
                pace.wait(0)
                session = _opened(peer, self.open(prompt_id=f"{VENDOR}/large"))
                for request in (Finish(session, 1, 0), Close(session, 2)):
                    _answer(peer, frames_of(request))
                sent.value += 1

    def dear_finishes(self, sent: Any) -> None:
        """One session whose reply is as long as may be, finished again and again."""
        tokenizer = tokenizer_of(read_half(self._half, "edge"))
        longest = max(range(tokenizer.n_words), key=lambda token: len(tokenizer.token_bytes(token)))
        end, pace = self.welcome.max_seq_len - 1, Pace()
        with Peer(self.address, keys=self.keys) as peer:
            session, seq = _opened(peer, self.open(prompt_id=f"{VENDOR}/large", resumed_ids=(longest,) * end)), 0
            while True:
                seq += 1
                _answer(peer, frames_of(Finish(session, seq, end)), pace)
                sent.value += 1

    def repeated_steps(self, sent: Any) -> None:
        """The largest Step of a session, sent again as it was: recognised by its bytes, and answered as before."""
        pace = Pace()
        with Peer(self.address, keys=self.keys) as peer:
            session = _opened(peer, self.open())
            frames = self.step(session, 1, 0)
            while True:
                _answer(peer, frames, pace)
                sent.value += 1

    def new_connections(self, sent: Any) -> None:
        """One handshake after the other, with a Hello each."""
        while True:
            with Peer(self.address, keys=self.keys) as peer:
                _heed(peer.exchange_bytes(*frames_of(Hello(wire.VERSION))))
            sent.value += 1


class Pace:
    """Waits so that no more is sent than one key may.

    Args:
        requests_s: how many a second; by default, all requests that it may send.
    """

    def __init__(self, requests_s: float = MAX_REQUESTS_S_PER_KEY) -> None:
        self._request_s = 1 / (WITHIN * requests_s)
        self._byte_s = 1 / (WITHIN * MAX_MB_S_PER_KEY * 1e6)
        self._next = time.monotonic()

    def wait(self, size: int) -> None:
        """Until a message of ``size`` bytes may be sent."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + max(self._request_s, size * self._byte_s)


def dearest(hostile: Hostile, kind: str, cpu_s: Callable[[], float]) -> tuple[str, float]:
    """Which of the candidates of a type costs the cloud most, and seconds of its own threads for one."""
    costs = dict[str, float]()
    for name, make in hostile.candidates()[kind].items():
        with Peer(hostile.address, keys=hostile.keys) as peer:
            before, begun, answered = cpu_s(), time.monotonic(), 0
            while time.monotonic() - begun < 0.7:
                answered += _heed(peer.exchange_bytes(*make()))
            costs[name] = (cpu_s() - before) / max(1, answered)
    name = max(costs, key=costs.__getitem__)
    return name, costs[name]


def _answer(peer: Peer, frames: Sequence[bytes], pace: Pace | None = None) -> bytes:
    """The answer to a request; asked again while it is ``busy``."""
    while True:
        if pace is not None:
            pace.wait(sum(map(len, frames)))
        body = peer.exchange_bytes(*frames)
        if _heed(body):
            return body


def _heed(body: bytes) -> bool:
    """Wait if the cloud says ``busy``; whether it has not."""
    if b"busy" in body[:32]:
        with contextlib.suppress(ValueError):
            reply = wire.decode_reply(body)
            if isinstance(reply, Error) and reply.retry_after_s is not None:
                time.sleep(max(0.1, reply.retry_after_s))  # as a device
                return False
    return True


def _opened(peer: Peer, request: Open) -> bytes:
    reply = wire.decode_reply(_answer(peer, frames_of(request)))
    assert isinstance(reply, Opened), reply
    return reply.session
