"""A cloud that serves honestly up to a message of its choice, and then does what a test wants.

It is a relay before a real cloud: what it says until then, fingerprint and tokens included, is that cloud's.

Knows: the wire. Does not know: who asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from llama import wire
from llama.wire import Hello, Reply, Request

Answer = Callable[[Request], Reply | bytes | None]
SILENT: Answer = lambda request: None  # noqa: E731


class Turning:
    """Honest until the first request of one kind; from then on it answers that kind as it likes, and others perhaps.

    Args:
        upstream: the real cloud's address; None is a cloud that never says anything honest.
        at: the kind of request that it turns at.
        answer: what it says to that kind from then on; by default nothing.
        lives: whether other requests are still answered honestly, Hello among them.
    """

    def __init__(self, upstream: str | None, at: type[Request], answer: Answer = SILENT, *, lives: bool) -> None:
        self._upstream, self._at, self._answer, self._lives = upstream, at, answer, lives
        self.turned_at: float | None = None
        self.asked = list[type[Request]]()
        self._context = zmq.Context()
        self._front: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._front.bind("tcp://127.0.0.1:*")
        self.address: str = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop, self.turned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="hostile cloud")

    def __enter__(self) -> Turning:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        back: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        if self._upstream is not None:
            back.connect(self._upstream)
        while not self._stop.is_set():
            if not self._front.poll(20):
                continue
            peer, _, *body = self._front.recv_multipart()
            request = wire.decode_request(body[0])
            self.asked.append(type(request))
            if isinstance(request, self._at) and self.turned_at is None:
                self.turned_at = time.monotonic()
                self.turned.set()
            if self.turned_at is None or (self._lives and not isinstance(request, self._at)):
                reply = self._honest(back, body)
            elif self._lives or isinstance(request, self._at):
                reply = self._hostile(request)
            else:
                reply = None
            if reply is not None:
                self._front.send_multipart([peer, b"", reply])

    def _hostile(self, request: Request) -> bytes | None:
        answer = self._answer(request)
        return answer if isinstance(answer, bytes | None) else wire.encode(answer)

    def _honest(self, back: zmq.Socket[bytes], body: list[bytes]) -> bytes | None:
        """The real cloud's answer, if there is one. One at a time: there is one device."""
        if self._upstream is None:
            return None
        back.send_multipart([b"", *body])
        while not self._stop.is_set():
            if back.poll(20):
                _, reply = back.recv_multipart()
                return reply
        return None


def dead(at: type[Request], upstream: str | None) -> Turning:
    """Falls silent altogether."""
    return Turning(upstream, at, lives=False)


def stalled(at: type[Request], upstream: str | None) -> Turning:
    """Says that it lives, and answers all but one kind of request."""
    assert at is not Hello
    return Turning(upstream, at, lives=True)
