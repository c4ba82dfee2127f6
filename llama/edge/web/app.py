"""The page's server: HTTP on this machine's loopback address, for the one person who has the page's address.

The server keeps out other sites in the person's browser, and other programs on the machine:

- It binds only the loopback address.
- A request must name that address as its host. Names that another site points at this machine (DNS rebinding) are
  refused.
- If the browser sends a request's origin, it must be this page.
- Requests for the person's data need a random token. The token is in the printed address, after ``#``, so browsers
  never send it in a request's address.
- The page may load, run and call only this server.

Knows: HTTP, tokens, addresses. Does not know: the content of answers, which the controller gives.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar, cast

import msgspec
import uvicorn
from msgspec import Meta
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama.client.link import Stopped
from llama.edge.web.controller import WebController
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import EventStream
from llama.errors import HistoryError, PrivacyRefused, ProfileError, SplitLlamaError
from llama.local_http import OWN_HOSTS, listen, uvicorn_config
from llama.privacy.profile import MAX_VALUE_CHARS
from llama.text.printable import printable

STATIC = Path(__file__).parent / "static"
MAX_BODY = 2 << 20  # bytes; a profile has 1 MiB at most
HEARTBEAT_S = 5.0
BODY_S = 10.0
SHEETS_AT_ONCE = 4

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}

PromptId = Annotated[str, Meta(max_length=200)]
Words = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=MAX_VALUE_CHARS)], ...], Meta(max_length=500)]
_T = TypeVar("_T")


class _Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt_id: PromptId
    hidden: Words = ()


class _PrivateWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    words: Words


class _Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt_id: PromptId
    seen: Annotated[str, Meta(max_length=64)]
    agree: bool = False


class _Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: Annotated[str, Meta(max_length=64)]


class _Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _ToForget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run_id: Annotated[str, Meta(max_length=64)]


class _Edited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    version: Annotated[str, Meta(max_length=64)]


class _HttpError(Exception):
    """Error of a request that is answered with ``status`` and a message only."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def serve(controller: WebController, port: int) -> None:
    """Print the page's address and serve the page until Ctrl-C.

    Args:
        controller: the page's controller. It is closed at the end.
        port: TCP port; 0 means any free port.

    Raises:
        BindError: the port is in use.
    """
    listener, address = listen("--port", port)
    port, token = listener.getsockname()[1], secrets.token_urlsafe(24)
    config = uvicorn_config(application(controller, port, token))
    controller.start()
    server = _UvicornServer(config, controller.events)
    print(f"the page, for this machine only: {address}/#{token}", flush=True)
    print("keep this address private: it gives access to your profile; press Ctrl-C to stop", flush=True)
    try:
        server.run(sockets=[listener])
        if controller.failure is not None:
            raise controller.failure
    finally:
        if not controller.close():  # a thread still computes or loads: it cannot be ended, and Python would wait for it
            code = server.exit_code if controller.failure is None else controller.failure.exit_code
            atexit.register(_end_at_once, code)
        listener.close()


def _end_at_once(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


class _UvicornServer(uvicorn.Server):
    """Uvicorn server that ends the event streams of open pages at its end, and ends itself when the streams end.

    Attributes:
        exit_code: exit code for the signal that ended it, or 0.
    """

    def __init__(self, config: uvicorn.Config, events: EventStream) -> None:
        super().__init__(config)
        self._events, self.exit_code = events, 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the event streams and the server. Uvicorn calls this in a signal handler."""
        self.exit_code = 128 + sig
        self._events.end()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end. Uvicorn calls this ten times a second."""
        return await super().on_tick(counter) or self._events.ended


def application(controller: WebController, port: int, token: str) -> Starlette:
    """Make the ASGI application of the page and its interface, for ``http://127.0.0.1:port``."""
    api = _Api(controller)
    return Starlette(
        routes=[
            Route("/api/state", api.state),
            Route("/api/sheet", api.sheet, methods=["POST"]),
            Route("/api/run", api.begin, methods=["POST"]),
            Route("/api/stop", api.stop, methods=["POST"]),
            Route("/api/profile", api.profile),
            Route("/api/profile", api.edit, methods=["PUT"]),
            Route("/api/private_words", api.add_private_words, methods=["POST"]),
            Route("/api/history", api.history),
            Route("/api/history", api.keep_history, methods=["POST"]),
            Route("/api/forget", api.forget, methods=["POST"]),
            Route("/api/events", api.events),
            Route("/", _page),
            Route("/{name}", _page),
        ],
        middleware=[Middleware(LocalOnlyMiddleware, port=port, token=token)],
        exception_handlers={
            _HttpError: lambda _, err: _json({"error": str(err)}, err.status),
            Conflict: _answer(409),
            ProfileError: _answer(422),
            HistoryError: _answer(422),
            PrivacyRefused: _answer(422),
            SplitLlamaError: _answer(502),
            Stopped: _answer(503),
            # The message may be personal, so only the type is sent.
            Exception: lambda _, err: _json({"error": f"the program failed ({type(err).__name__})"}, 500),
        },
    )


class _Api:
    """Handlers of the page's requests."""

    def __init__(self, controller: WebController) -> None:
        self.controller = controller
        self._looking = asyncio.Semaphore(SHEETS_AT_ONCE)  # a cloud that is slow with sheets delays only sheets

    async def state(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.controller.state))

    async def sheet(self, request: Request) -> Response:
        body = await _body(request, _Look)
        async with self._looking:
            return _json(await _in_a_daemon(lambda: self.controller.look_at(body.prompt_id, body.hidden)))

    async def begin(self, request: Request) -> Response:
        body = await _body(request, _Begin)
        try:
            run = await run_in_threadpool(self.controller.begin, body.prompt_id, body.agree, body.seen)
        except PermissionError as err:
            return _json({"error": str(err), "consent_needed": True}, 409)
        return _json({"run": run}, 202)

    async def stop(self, request: Request) -> Response:
        self.controller.stop((await _body(request, _Stop)).run)
        return _json({})

    async def profile(self, request: Request) -> Response:
        text, version = await run_in_threadpool(self.controller.profile_text)
        return _json({"text": text, "version": version})

    async def edit(self, request: Request) -> Response:
        body = await _body(request, _Edited)
        return _json({"version": await run_in_threadpool(self.controller.write_profile, body.text, body.version)})

    async def add_private_words(self, request: Request) -> Response:
        body = await _body(request, _PrivateWords)
        await run_in_threadpool(self.controller.add_private_words, body.words)
        return _json({})

    async def history(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.controller.history.listed))

    async def keep_history(self, request: Request) -> Response:
        await _body(request, _Keep)
        await run_in_threadpool(self.controller.history.keep)
        return _json({})

    async def forget(self, request: Request) -> Response:
        body = await _body(request, _ToForget)
        async with self._looking:
            return _json({"says": await _in_a_daemon(lambda: self.controller.history.forget(body.run_id))})

    async def events(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        n = int(after) if after.isdecimal() and len(after) < 16 else 0
        return StreamingResponse(_events(self.controller.events, n), media_type="application/x-ndjson")


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", "page.html")
    return FileResponse(STATIC / name) if name in _pages() else _json({"error": "no such page"}, 404)


class LocalOnlyMiddleware:
    """Middleware that refuses requests with another host, from another page, or without the token."""

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self.app, self.token = app, token.encode()
        self.hosts = {f"{host}:{port}".encode() for host in OWN_HOSTS}
        if port == 80:  # browsers omit this port
            self.hosts |= {host.encode() for host in OWN_HOSTS}
        self.origins = {b"http://" + host for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 403. Add the security headers to either answer."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        refusal = self._refusal(scope)
        app = self.app if refusal is None else _json({"error": refusal}, 403)
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts, origins, sites, tokens = (
            [value for name, value in headers if name == wanted]
            for wanted in (b"host", b"origin", b"sec-fetch-site", b"x-token")
        )
        is_api = scope["path"].startswith("/api/")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return "wrong host; open the address that the program printed"
        if any(origin not in self.origins for origin in origins):
            return "this program answers its own page only"
        if is_api and any(site not in (b"same-origin", b"none") for site in sites):
            return "this program answers its own page only"
        if is_api and (len(tokens) != 1 or not secrets.compare_digest(tokens[0], self.token)):
            return "wrong token; open the address that the program printed"
        return None


async def _in_a_daemon(do: Callable[[], _T]) -> _T:
    """Return the result of ``do``, called in a daemon thread, so that the program's end does not wait for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast(_T, result))

    def work() -> None:
        result, error = None, None
        try:
            result = do()
        except Exception as err:
            error = err
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=work, name="look", daemon=True).start()
    return await done


async def _events(events: EventStream, n: int) -> AsyncIterator[bytes]:
    """Yield each event after the n-th as it happens, and a blank line after ``HEARTBEAT_S`` without one."""
    loop, happened = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(happened.set)

    events.subscribe(wake)
    try:
        while not events.ended:
            happened.clear()
            lines = events.since(n)
            for number, line in lines:
                n = number
                yield line
            if not lines:
                try:
                    await asyncio.wait_for(happened.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield b"\n"
    finally:
        events.unsubscribe(wake)


async def _body(request: Request, kind: type[_T]) -> _T:
    raw = bytearray()  # appending many small chunks does not copy the whole body each time
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > MAX_BODY:
                    raise _HttpError(413, f"the request is longer than {MAX_BODY >> 20} MiB")
    except ClientDisconnect:
        raise _HttpError(400, "the request is incomplete") from None
    except TimeoutError:
        raise _HttpError(408, f"the request is incomplete after {BODY_S:.0f} s") from None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError):  # msgspec's message may quote the request
        raise _HttpError(400, "this is not a request of this page") from None


def _pages() -> frozenset[str]:
    return frozenset(path.name for path in STATIC.iterdir() if path.suffix in (".html", ".css", ".js", ".svg"))


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _answer(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, err: _json({"error": printable(str(err))}, status)
