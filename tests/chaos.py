"""A bad line: a TCP proxy between device and cloud that does harm by seeded chance.

Knows: bytes and connections. Does not know: ZeroMQ, the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from typing import Any

PIECE = 1 << 16
SILENT_S = 0.3  # before a line that has stopped to carry anything is cut, where it is
LATE_S = 0.08


class BadLine:
    """Carries bytes to ``port`` of this machine and back, from a thread of its own; a context manager.

    What may happen to a piece:

    - ``late``: it waits a moment.
    - ``cut``: it does not arrive, and the connection ends.
    - ``halved``: its first half arrives, and the connection ends.
    - ``lost``: neither it nor anything after it arrives; some time later the connection ends.
    - ``mute``: the same, and the connection never ends.
    - ``doubled``: its beginning arrives twice. Only what a connection begins with: there libzmq must notice. Changed
      bytes further on are for TCP's checksums, or for keys.

    Args:
        port: of the cloud.
        seed: of the chance.
        harm: how likely something happens to a piece.

    Attributes:
        port: where the device connects.
        happened: how often what did.
    """

    KINDS = ("late", "late", "cut", "halved", "lost", "mute")

    def __init__(self, port: int, seed: int, harm: float = 0.05) -> None:
        self._target, self._harm = port, harm
        self._random = random.Random(seed)
        self.port = 0
        self.happened: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._tasks = set[asyncio.Task[Any]]()

    @property
    def address(self) -> str:
        """For the device."""
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> BadLine:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._tasks.add(this)
        writers = [writer]
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(to_writer)
            ways = [
                asyncio.create_task(self._carry(a, b)) for a, b in ((reader, to_writer), (to_reader, writer))
            ]  # fmt: skip
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(this)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way of a connection; returns when the connection is to end."""
        is_first = True
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                what = self._chance(is_first)
                is_first = False
                if what:
                    self.happened[what] += 1
                if what == "late":
                    await asyncio.sleep(self._random.uniform(0, LATE_S))
                elif what == "doubled":
                    writer.write(piece[: max(1, len(piece) // 2)])
                elif what == "halved":
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    return
                elif what == "cut":
                    return
                elif what == "lost":
                    await asyncio.sleep(SILENT_S)
                    return
                elif what == "mute":
                    await self._stop.wait()
                    return
                writer.write(piece)
                await writer.drain()

    def _chance(self, is_first: bool) -> str:
        if self._random.random() >= self._harm:
            return ""
        return self._random.choice((*self.KINDS, "doubled", "doubled") if is_first else self.KINDS)
