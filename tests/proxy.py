"""A TCP proxy that keeps what passes through it."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Wire:
    """One connection: what each side has sent, byte for byte."""

    out: bytearray = field(default_factory=bytearray)
    back: bytearray = field(default_factory=bytearray)


class Proxy:
    """Between device and cloud: passes every byte on, and keeps it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.wires: list[Wire] = []
        self._sockets = list[socket.socket]()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # has ended by itself
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(self._target)
            wire_of = Wire()
            self.wires.append(wire_of)
            self._sockets += [device, there]
            for a, b, kept in ((device, there, wire_of.out), (there, device, wire_of.back)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_pass_on, args=(a, b, kept))
                self._threads.append(thread)
                thread.start()


def _pass_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    try:
        while data := source.recv(1 << 18):
            kept += data  # before it is passed on: whoever has the answer finds the question here
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side has gone
