"""``/metrics`` and ``/healthz`` over HTTP, for programs of this machine that look after the cloud.

Listens on loopback only, and answers only who has asked loopback: a page of the web whose name was made to mean this
machine (DNS rebinding) asks that name. Whoever connects gets little: two seconds to ask, eight at a time, two pages
that are read; the threads that answer are the process's last, and hold neither it nor a step up.

Does not know: what is counted, when the cloud is well.
"""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from llama.addresses import in_url, loopback
from llama.errors import BindError, UsageError

TIMEOUT_S = 2.0  # for all of a request, and once more for all of the answer
MAX_AT_ONCE = 8
MAX_HEAD_BYTES = 8192
_OWN_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)  # of a forwarded port, too


class MetricsServer:
    """Answers from now on, in threads of its own, until it is closed.

    Args:
        port: 0 lets the system pick one.
        registry: what ``/metrics`` shows.
        health: ``ok``, which makes ``/healthz`` a 200, or in one word why not, which makes it a 503.

    Attributes:
        address: ``http://127.0.0.1:PORT``, or ``http://[::1]:PORT`` where there is no IPv4.

    Raises:
        UsageError: there is no such port.
        BindError: it is in use, or not for this user.
    """

    def __init__(self, port: int, registry: CollectorRegistry, health: Callable[[], str]) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"--metrics_port {port}: give 1 to 65535, or 0 for any free port")
        family, host = loopback()
        try:
            self._http = _Http(family, (host, port), _handler_of(registry, health))
        except OSError as err:
            raise BindError(
                f"--metrics_port {port}: cannot listen on {in_url(host)}:{port} ({err.strerror}); stop "
                f"what listens there or choose another port"
            ) from None
        self.address = f"http://{in_url(host)}:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.1,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Nobody is answered any more."""
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingMixIn, TCPServer):
    daemon_threads = True
    request_queue_size = 64  # or whoever looks waits behind those who only connect
    allow_reuse_address = True  # a port whose last connections are not yet forgotten

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]
    ) -> None:
        self.address_family = family
        self._connections_left = threading.Semaphore(MAX_AT_ONCE)
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # no file descriptor is left: who waits still does, and would be tried again without a pause
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections_left.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is left
            self._connections_left.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections_left.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has left, or took too long."""


class _LocalRequest(BaseHTTPRequestHandler):
    server_version, sys_version = "split-llama", ""
    timeout = TIMEOUT_S

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(_head(self.connection))

    def log_message(self, format: str, *args: Any) -> None:
        """What a peer asks for is not told."""

    def answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _handler_of(registry: CollectorRegistry, health: Callable[[], str]) -> type[_LocalRequest]:
    class MetricsRequest(_LocalRequest):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hosts = self.headers.get_all("Host", [])  # none is HTTP/1.0's, which no browser speaks
            if len(hosts) > 1 or not all(map(_OWN_HOST.fullmatch, hosts)):
                self.answer(HTTPStatus.FORBIDDEN, "text/plain", b"only 127.0.0.1, localhost and [::1] are answered\n")
            elif path == "/metrics":
                self.answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))
            elif path == "/healthz":
                word = health()
                status = HTTPStatus.OK if word == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
                self.answer(status, "text/plain", f"{word}\n".encode())
            else:
                self.answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics and /healthz\n")

        do_HEAD = do_GET  # noqa: N815

    return MetricsRequest


def _head(connection: socket.socket) -> bytes:
    """A request up to its empty line, or as much of it as is read.

    Raises:
        TimeoutError: it did not come in time, however often a part of it did.
    """
    deadline, head = time.monotonic() + TIMEOUT_S, b""
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(MAX_HEAD_BYTES)
        if not part:
            break
        head += part
    connection.settimeout(TIMEOUT_S)
    return head
