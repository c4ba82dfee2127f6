"""``/metrics`` and ``/healthz`` over HTTP, for programs on this machine that monitor the cloud.

The server listens on loopback only. It refuses requests that name another host, so that a web page whose name resolves
to this machine (DNS rebinding) cannot read the metrics. Clients that send nothing are disconnected.

Knows: HTTP, loopback. Does not know: the meaning of the metrics and of the health states.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llama.errors import UsageError
from llama.local_http import OWN_HOSTS, listen, uvicorn_config

CONNECTION_S = 4.0  # for one request and its answer
MAX_CONNECTIONS = 32
MAX_HEAD_BYTES = 8192
# Any port: a monitor may reach this one through a forwarded port.
_OWN_HOST = re.compile(rf"(?:{'|'.join(map(re.escape, OWN_HOSTS))})(?::[0-9]{{1,5}})?", re.IGNORECASE)


class MetricsServer:
    """HTTP server in a thread. It answers from its construction until :meth:`close`.

    Args:
        port: 0 takes any free port.
        registry: the metrics that ``/metrics`` shows.
        health: returns ``ok``, for which ``/healthz`` has status 200, or another word, for which it has status 503.

    Attributes:
        address: ``http://127.0.0.1:PORT``, or ``http://[::1]:PORT`` on a machine without IPv4.

    Raises:
        UsageError: the port is out of range.
        BindError: the port is taken, or this user may not use it.
    """

    def __init__(self, port: int, registry: CollectorRegistry, health: Callable[[], str]) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"--metrics_port must be 1 to 65535, or 0 for any free port (got {port}).")
        self._listener, self.address = listen("--metrics_port", port)
        config = uvicorn_config(
            application(registry, health),
            http=_LimitedConnection,
            loop="asyncio",
            headers=[("connection", "close")],
            limit_concurrency=MAX_CONNECTIONS,
            backlog=MAX_CONNECTIONS,  # asyncio accepts as many at a time, before connection_made can close them
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self._server = uvicorn.Server(config)
        # uvicorn installs signal handlers in the main thread only.
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and disconnect the clients. Takes up to about 2 seconds."""
        self._server.should_exit = True
        self._thread.join(3.0)
        self._listener.close()


class _LimitedConnection(H11Protocol):
    """A connection that ends after CONNECTION_S, or at once if MAX_CONNECTIONS others are open.

    uvicorn's own limits apply to requests. Without these a client that sends none could keep its descriptor forever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(CONNECTION_S, transport.abort)


class _OwnHostMiddleware:
    """Answers requests for other hosts with 403. Requests without a host (HTTP/1.0) pass: browsers never send them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        refused = PlainTextResponse("wrong host name; use 127.0.0.1, localhost or [::1]\n", 403)
        await (self._app if all(map(_OWN_HOST.fullmatch, hosts)) else refused)(scope, receive, send)


def application(registry: CollectorRegistry, health: Callable[[], str]) -> Starlette:
    """Return the ASGI application. Its handlers do not block, so that they need no thread of a pool."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def healthz(_: Request) -> Response:
        word = health()
        return PlainTextResponse(f"{word}\n", 200 if word == "ok" else 503)

    async def not_found(_: Request, __: Exception) -> Response:
        return PlainTextResponse("no such page; use /metrics or /healthz\n", 404)

    app = Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz)],
        middleware=[Middleware(_OwnHostMiddleware)],
        exception_handlers={404: not_found},
    )
    app.router.redirect_slashes = False
    return app
