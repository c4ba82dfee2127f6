"""HTTP on this machine's loopback: the parts that the device's page and the cloud's metrics share.

Knows: loopback, uvicorn. Does not know: pages, clients.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from llama.addresses import in_url, loopback
from llama.errors import BindError

OWN_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def listen(flag: str, port: int) -> tuple[socket.socket, str]:
    """Listen on loopback. Return the socket and its URL, ``http://127.0.0.1:PORT``.

    Without IPv4 the URL is ``http://[::1]:PORT``. Clients can connect from now on; the server answers once it runs.

    Args:
        flag: the option that sets the port, for the error.
        port: 0 takes any free port.

    Raises:
        BindError: the port is taken, or this user may not use it.
    """
    family, host = loopback()
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as err:
        listener.close()
        raise BindError(
            f"{flag} {port}: cannot listen on {in_url(host)}:{port} ({err.strerror}). Stop the program that listens "
            f"there, or choose another port (0: any free port)."
        ) from None
    return listener, f"http://{in_url(host)}:{listener.getsockname()[1]}"


def uvicorn_config(app: ASGIApp, **settings: Any) -> uvicorn.Config:
    """Return uvicorn's configuration for ``app``, without any log.

    uvicorn and asyncio log tracebacks and parts of requests, which may be personal. Without a handler Python would
    print their warnings to stderr.
    """
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        **settings,
    )
