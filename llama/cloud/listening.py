"""The address of ``--bind``: looked up, checked for a cloud without keys, and bound.

Knows: addresses, why a system refuses one. Does not know: messages.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import zmq

from llama.addresses import Endpoint, NotAnAddress, UnknownHost, address_refusal, stays_here, to_listen
from llama.cloud.event_log import EventLog
from llama.errors import BindError, UsageError

_NOT_HERE = (errno.ENODEV, zmq.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine does not have the address
_ADVICE = address_refusal("listen on", flag="--bind")
_REASONS = {
    zmq.EADDRINUSE: "the port is in use; stop the program that listens there, or choose another port with --bind",
    **dict.fromkeys(
        _NOT_HERE,
        "no such network address on this machine; --bind tcp://0.0.0.0:PORT listens on all of IPv4, "
        "tcp://[::]:PORT on all",
    ),
    errno.EACCES: "this user may not listen on this port; choose a port above 1023",
}


def endpoints_of(bind: str) -> list[Endpoint]:
    """Return the endpoints of ``--bind``. Only binding shows whether one is free and belongs to this machine.

    Raises:
        UsageError: it is not an address to listen on, or its host is unknown.
    """
    try:
        return to_listen(bind)
    except NotAnAddress as err:
        raise UsageError(f"--bind {bind} is {address_refusal('listen on', str(err))}") from None
    except UnknownHost as err:
        raise UsageError(f"--bind {bind}: {err}") from None


def check_open_to(bind: str, endpoints: Sequence[Endpoint], *, keys: bool, insecure: bool, events: EventLog) -> None:
    """Allow a cloud without keys to listen on loopback only, unless ``--insecure`` is given.

    Raises:
        UsageError: the address is open, or may be open, to a network.
    """
    if keys or all(map(stays_here, endpoints)):
        return
    if not insecure:
        raise UsageError(
            f"--bind {bind} is open to a network, and the cloud has no keys; give --key_file and --allow_dir (python "
            f"-m llama.keys makes keys), or --insecure"
        )
    warning = "every machine that reaches this address can use the model, and the traffic is not encrypted"
    events.warning("insecure", message=warning)


def bind_to_first(socket: zmq.Socket[bytes], address: str, endpoints: Sequence[Endpoint] = ()) -> None:
    """Listen on the first endpoint that this machine has.

    Args:
        socket: with its options set.
        address: the text of the flag, for errors.
        endpoints: its endpoints; by default it is looked up.

    Raises:
        BindError: in use, malformed, or not an address of this machine.
    """
    try:
        _bind_to_first(socket, endpoints or to_listen(address))
    except (NotAnAddress, UnknownHost) as err:
        raise BindError(f"cannot listen on {address}: {str(err) or _ADVICE}") from None
    except zmq.ZMQError as err:
        raise BindError(f"cannot listen on {address}: {_REASONS.get(err.errno or 0, _ADVICE)}") from None


def _bind_to_first(socket: zmq.Socket[bytes], endpoints: Sequence[Endpoint]) -> None:
    """Bind to the first endpoint that this machine has. Raises ZMQError."""
    for number, endpoint in enumerate(endpoints, start=1):
        socket.setsockopt(zmq.IPV6, int(endpoint.ipv6))
        try:
            socket.bind(endpoint.address)
            return
        except zmq.ZMQError as err:
            if err.errno not in _NOT_HERE or number == len(endpoints):
                raise
