"""The authenticator: only listed keys may connect, and each may ask for what its role is there for.

ZeroMQ's CURVE proves who holds which key and encrypts all that follows; during the handshake libzmq asks this module
(by its ZAP protocol, RFC 27) whether a key may come in. That was true then: so each message's key is looked up again.

Knows: keys, roles, the types of requests. Does not know: sessions, text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from llama.cloud.allow_list import AllowList
from llama.errors import KeysError
from llama.keys import Identity, KeyPair
from llama.wire import Acknowledge, Collect, ErrorCode, Hello, Publish, Refused, Request, Status, Withdraw

MAX_SESSIONS_PER_KEY = 4
HANDSHAKE_MS = 10_000  # a peer that has not proved itself by then is dropped
_ZAP = "inproc://zeromq.zap.01"  # fixed by libzmq
_DOMAIN = "cloud"
_MAX_AT_ONCE = 16  # handshakes answered before others are looked after


@dataclass(frozen=True)
class CloudKeys:
    """The cloud's own keys, and who may speak to it.

    Args:
        own: its pair.
        allowed: who is listed.
        max_sessions: of one key, at a time.
    """

    own: KeyPair
    allowed: AllowList
    max_sessions: int = MAX_SESSIONS_PER_KEY


class Authenticator:
    """ZeroMQ's authenticator (ZAP) of one socket; used by one thread, the one that reads that socket.

    pyzmq has one (``zmq.auth``) that answers in a thread or an event loop of its own; here the thread that reads the
    socket also answers, so that a key that was taken off the list is refused from the next message on.

    Args:
        keys: the cloud's, and who is listed.
        context: the socket's; libzmq asks within it.

    Raises:
        KeysError: this libzmq has no CURVE.
    """

    def __init__(self, keys: CloudKeys, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        if not zmq.has("curve"):
            raise KeysError("this installation of ZeroMQ was built without CURVE; install pyzmq from PyPI")
        self.keys = keys
        self.requests: zmq.Socket[bytes] = context.socket(zmq.REP)  # libzmq's
        self.requests.setsockopt(zmq.LINGER, 0)
        self.requests.bind(_ZAP)
        self._seen_version, self._seen = keys.allowed.version, keys.allowed.keys

    def guard(self, router: zmq.Socket[bytes]) -> None:
        """Let only listed keys in; before the socket is bound."""
        own = self.keys.own
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, own.secret.encode())
        router.setsockopt(zmq.CURVE_PUBLICKEY, own.identity.public.encode())
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def answer(self) -> int:
        """Answer libzmq's requests. Who is let in has its key as the ``User-Id`` of all its messages.

        Returns:
            how many were not let in.
        """
        turned_away = 0
        for _ in range(_MAX_AT_ONCE):
            try:
                version, number, domain, _address, _routing_id, mechanism, *proof = self.requests.recv_multipart(
                    zmq.DONTWAIT
                )
            except zmq.Again:
                break
            key = ""
            if domain == _DOMAIN.encode() and mechanism == b"CURVE" and len(proof) == 1 and len(proof[0]) == 32:
                key = z85.encode(proof[0]).decode()
            listed = self.keys.allowed.find(key) is not None
            status = (b"200", b"OK", key.encode()) if listed else (b"400", b"not listed", b"")
            turned_away += not listed
            self.requests.send_multipart([version, number, *status, b""])
        return turned_away

    def owner_of(self, frame: zmq.Frame) -> str:
        """The key that a message came with."""
        try:
            return str(frame.get("User-Id"))
        except (zmq.ZMQError, KeyError):
            return ""  # which nobody has

    def changes(self) -> tuple[int, int] | None:
        """How many keys were put on the list and taken off it since this was asked last, if it has changed."""
        allowed = self.keys.allowed
        allowed.refresh()
        if allowed.version == self._seen_version:
            return None
        before, self._seen_version, self._seen = self._seen, allowed.version, allowed.keys
        return len(self._seen - before), len(before - self._seen)

    def is_listed(self, owner: str) -> bool:
        """Whether a key is listed."""
        return self.keys.allowed.find(owner) is not None

    def close(self) -> None:
        """Answer no more: nobody new comes in."""
        self.requests.close()


def listed_identity(keys: CloudKeys, owner: str) -> Identity:
    """Find who holds a key, now.

    Raises:
        Refused: ``not_allowed``: it is not listed any more.
    """
    identity = keys.allowed.find(owner)
    if identity is None:
        raise Refused(ErrorCode.NOT_ALLOWED, "this key is not listed any more", "ask the provider to list it")
    return identity


def check_role(identity: Identity, request: Request) -> None:
    """Check that an identity's role allows a request; a vendor's must name the vendor itself.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Hello):
        return
    if isinstance(request, Collect | Acknowledge | Publish | Withdraw):
        does, what = "collects", "deliveries"
        if isinstance(request, Publish | Withdraw):
            does, what = "publishes", "sheets"
        _check_is(identity, "vendor", f"{does} no {what}")
        if request.vendor != identity.name:
            raise Refused(
                ErrorCode.NOT_ALLOWED, f"these are another vendor's {what}", "give --vendor the name that the key has"
            )
    elif isinstance(request, Status):
        _check_is(identity, "operator", "reads no status")
    else:
        _check_is(identity, "device", "runs no sessions")


def _check_is(identity: Identity, role: str, does: str) -> None:
    if identity.role != role:
        raise Refused(ErrorCode.NOT_ALLOWED, f"a key of role {identity.role} {does}", f"use a key of role {role}")


def check_keyless(request: Request, address: Callable[[], str]) -> None:
    """Check that a request needs no key; the cloud's status is told on its own machine only.

    Args:
        request: any.
        address: finds the IP address that it came from.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Publish | Withdraw):
        raise Refused(
            ErrorCode.NOT_ALLOWED,
            "without keys anybody could publish in a third party's name",
            "the provider can give the cloud keys: --key_file and --allow_dir",
        )
    if isinstance(request, Status) and not is_local(address()):
        raise Refused(
            ErrorCode.NOT_ALLOWED,
            "without keys a cloud says how it does on its own machine only",
            "ask there, or give it keys, and use one of role operator",
        )


def is_local(address: str) -> bool:
    """Whether a peer's address is this machine's own, by loopback."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
