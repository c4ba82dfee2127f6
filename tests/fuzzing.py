"""A peer that sends what nobody should: valid conversations, damaged by seeded chance, and bytes that are none.

It keeps some sessions of its own open, so that what it sends gets past the first question, and reads every answer: each
must be one of the protocol, and none may say ``internal``.

Knows: the wire, sockets. Does not know: what the cloud makes of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
import zmq

from llama import wire
from llama.dtypes import DTYPES
from llama.keys import LinkKeys
from llama.tensor_frames import hidden_to_frame
from llama.wire import (
    Acknowledge,
    Close,
    Collect,
    ErrorCode,
    FetchSheet,
    Final,
    Finish,
    Hello,
    ListSheets,
    Open,
    Opened,
    Step,
    Tokens,
    Welcome,
)  # fmt: skip
from tests.raw import GREETING, MORE, READY, connected
from tests.support import Peer, code_of, frames_of, open_request

SOCKETS = 12
IN_FLIGHT = 4  # messages of one socket before its answers are read: as many as the cloud holds
SESSIONS = 3  # sockets that have one open; the others speak of theirs
LOST_COUNT = 10  # requests out of sequence, after which a session is closed
EVERY_RAW = 100  # messages between two connections that are not ZeroMQ's
NUMBERS = (0, 1, 2, 63, 64, 65, 255, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1, -1, -(2**31))
VALUES: tuple[object, ...] = (
    None, True, "", "x" * 300, b"", bytes(16), bytes(17), [], [[]], {}, {"a": 1}, 0.5, float("nan"), float("inf"),
)  # fmt: skip
BOMBS = (
    b"\x91" * 100_000, b"\x81\xa1a" * 30_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\x81\xa4type\xdb\x7f\xff\xff\xff", b"\xc1", b"\xc7\xff\x00",
)  # fmt: skip


@dataclass
class _Own:
    """A session that is open, as far as the answers tell."""

    id: bytes
    seq: int = 0
    lost: int = 0  # requests out of sequence since the last in sequence


class Fuzzer:
    """Sends to one cloud; a context manager.

    Args:
        address: of the cloud.
        welcome: what the cloud says of itself.
        seed: of the chance; the same seed sends the same, as far as the cloud's answers are the same.
        keys: with which it is listed, where keys are used.

    Attributes:
        sent: messages so far.
        happened: how often what was done, and what was answered.
    """

    def __init__(self, address: str, welcome: Welcome, seed: int, keys: LinkKeys | None = None) -> None:
        self.sent, self.happened = 0, Counter[str]()
        self._address, self._welcome, self._keys = address, welcome, keys
        self._chance = random.Random(seed)
        self._peers = [Peer(address, zmq.DEALER, keys) for _ in range(SOCKETS)]
        self._own = dict[int, _Own]()  # by socket
        self._strangers = list[bytes]()  # ids of sessions that are closed
        self._last = [b"", wire.encode(Hello(wire.VERSION))]
        self._damages: tuple[Callable[[list[bytes]], list[bytes]], ...] = (
            self._flipped, self._flipped, self._cut, self._extended, self._other_fields, self._other_fields,
            self._other_fields, self._other_frames, self._not_finite, self._bomb, self._no_envelope, self._again,
            *[self._as_it_was] * 4,
        )  # fmt: skip

    def __enter__(self) -> Fuzzer:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.__exit__()

    def send(self, messages: int) -> None:
        """So many more; returns when what was answered has been read."""
        until = self.sent + messages
        while self.sent < until:
            for which in range(SOCKETS):
                for _ in range(self._chance.randrange(1, IN_FLIGHT + 1)):
                    self._one(which)
            self._read(0)
        self._read(0.05)

    # ---- what is sent

    def _one(self, which: int) -> None:
        if self.sent % EVERY_RAW == 0:
            self._raw()
        damage = self._chance.choice(self._damages)
        frames = damage([b"", *self._valid(which)])
        self.happened[damage.__name__] += 1
        try:
            self._peers[which].socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:  # it was disconnected, or the cloud is behind
            self._peers[which].socket.poll(100, zmq.POLLOUT)
        self._last = frames
        self.sent += 1

    def _valid(self, which: int) -> list[bytes]:
        """A request as it should be: of a conversation that is under way, or of none."""
        chance, own = self._chance, self._own.get(which)
        if own is None and (which < SESSIONS or not self._own):
            return frames_of(self._opening() if chance.random() < 0.4 else Hello(wire.VERSION))
        if own is None:
            own = chance.choice(list(self._own.values()))
        elif which in self._own and (own.lost > LOST_COUNT or chance.random() < 0.03):
            self._strangers = [*self._strangers[-9:], self._own.pop(which).id]
            return frames_of(Close(own.id, own.seq + 1))
        if chance.random() < 0.2:
            return frames_of(chance.choice((
                Hello(wire.VERSION), ListSheets(), FetchSheet("birthday"), Collect("insurer"),
                Acknowledge("insurer", (bytes(16),)), Finish(own.id, own.seq + 1, 0),
            )))  # fmt: skip
        rows = torch.randn(chance.randrange(1, 4), self._welcome.dim)
        step = Step(own.id, own.seq + 1, 0, chance.randrange(2), self._welcome.dtype, len(rows), self._welcome.dim)
        return frames_of(step, rows.to(DTYPES[self._welcome.dtype]))

    def _opening(self) -> Open:
        return open_request(
            1, run_id=self._chance.randbytes(16), fingerprint=self._welcome.fingerprint,
            resumed_ids=tuple(range(self._chance.randrange(4))),
        )  # fmt: skip

    def _raw(self) -> None:
        """A connection that is not libzmq's: garbage, half a handshake, a handshake and then garbage or silence."""
        chance = self._chance
        said = chance.choice((
            chance.randbytes(chance.randrange(1, 5000)), b"GET / HTTP/1.1\r\n\r\n", GREETING[: chance.randrange(1, 64)],
            GREETING + chance.randbytes(200), GREETING + READY[:9], GREETING + READY + chance.randbytes(300),
            GREETING + READY + MORE * 1000, GREETING + READY + b"\x02\xff" + bytes(7) + b"\xff",
            b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(47) + chance.randbytes(200),
        ))  # fmt: skip
        with connected(self._address) as raw:
            raw.sendall(said)
        self.happened["raw"] += 1

    # ---- how it is damaged

    def _as_it_was(self, frames: list[bytes]) -> list[bytes]:
        return frames

    def _again(self, frames: list[bytes]) -> list[bytes]:
        return self._last

    def _flipped(self, frames: list[bytes]) -> list[bytes]:
        return self._with_one(frames, self._flip)

    def _flip(self, frame: bytes) -> bytes:
        damaged = bytearray(frame)
        for _ in range(self._chance.randrange(1, 9) if damaged else 0):
            damaged[self._chance.randrange(len(damaged))] ^= 1 << self._chance.randrange(8)
        return bytes(damaged)

    def _cut(self, frames: list[bytes]) -> list[bytes]:
        return self._with_one(frames, lambda frame: frame[: self._chance.randrange(len(frame) + 1)])

    def _extended(self, frames: list[bytes]) -> list[bytes]:
        return self._with_one(frames, lambda frame: frame + self._chance.randbytes(self._chance.choice((1, 4, 3000))))

    def _other_fields(self, frames: list[bytes]) -> list[bytes]:
        """Two fields swapped, or some with other values, without, or with more than there should be."""
        fields, chance = msgspec.msgpack.decode(frames[1]), self._chance
        for _ in range(chance.randrange(1, 4)):
            name, other = chance.choice(list(fields)), chance.choice(list(fields))
            what = chance.randrange(6)
            if what == 0:
                fields[name], fields[other] = fields[other], fields[name]
            elif what == 1 and len(fields) > 1:
                del fields[name]
            elif what == 2:
                fields[chance.choice(("seq", "position", "want", "rows", "x" * 50))] = chance.choice(NUMBERS)
            elif what == 3 and self._strangers:
                fields["session"] = chance.choice(self._strangers)
            else:
                fields[name] = chance.choice((*NUMBERS, *VALUES))
        try:
            header = msgspec.msgpack.encode(fields)
        except OverflowError:
            header = b"\xd3" + bytes(8)
        return [frames[0], header, *frames[2:]]

    def _other_frames(self, frames: list[bytes]) -> list[bytes]:
        chance = self._chance
        if chance.random() < 0.3:
            return frames + [b"x"] * chance.choice((1, 2, 9, 40, 3000))
        chance.shuffle(shuffled := list(frames))
        return shuffled[: chance.randrange(1, len(frames) + 1)]

    def _not_finite(self, frames: list[bytes]) -> list[bytes]:
        if len(frames) < 3:
            return frames
        number = torch.tensor([self._chance.choice((float("nan"), float("inf"), -float("inf"), 3e38))])
        kind = DTYPES[self._welcome.dtype]
        spoilt = bytes(hidden_to_frame(number.to(kind)[None]))
        return [*frames[:-1], frames[-1][: -len(spoilt)] + spoilt]

    def _bomb(self, frames: list[bytes]) -> list[bytes]:
        return [frames[0], self._chance.choice(BOMBS), *frames[2:]]

    def _no_envelope(self, frames: list[bytes]) -> list[bytes]:
        return self._chance.choice(([b"", b""], [os.urandom(3), *frames[1:]], frames[1:], [b""], [b""] * 3))

    def _with_one(self, frames: list[bytes], change: Callable[[bytes], bytes]) -> list[bytes]:
        """One of the frames changed, hardly ever the envelope."""
        which = self._chance.randrange(0 if self._chance.random() < 0.05 else 1, len(frames))
        return [*frames[:which], change(frames[which]), *frames[which + 1 :]]

    # ---- what is answered

    def _read(self, quiet_s: float) -> None:
        """All answers that are there; and then until none has come for so long."""
        quiet_at = time.monotonic() + quiet_s
        while True:
            came = False
            for which, peer in enumerate(self._peers):
                while peer.socket.poll(0):
                    came = True
                    *envelope, body = peer.socket.recv_multipart()
                    assert envelope == [b""], envelope
                    self._heard(which, body)
            if came:
                quiet_at = time.monotonic() + quiet_s
            elif time.monotonic() >= quiet_at:
                return
            else:
                time.sleep(0.005)

    def _heard(self, which: int, body: bytes) -> None:
        reply = wire.decode_reply(body)  # a ValueError is a find
        code = code_of(reply)
        assert code != ErrorCode.INTERNAL, reply
        self.happened[code] += 1
        own = self._own.get(which)
        if isinstance(reply, Opened):
            if which < SESSIONS and own is None:
                self._own[which] = _Own(reply.session)
            elif all(reply.session != each.id for each in self._own.values()):
                with contextlib.suppress(zmq.Again):
                    self._peers[which].socket.send_multipart([b"", *frames_of(Close(reply.session, 1))], zmq.DONTWAIT)
        elif own is not None and (isinstance(reply, Tokens | Final) or code == ErrorCode.NOT_FINITE):
            own.seq, own.lost = reply.seq if isinstance(reply, Tokens) else own.seq + 1, 0
        elif own is not None and code in (ErrorCode.OUT_OF_SEQUENCE, ErrorCode.UNKNOWN_SESSION):
            own.lost += 1
