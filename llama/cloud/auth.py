"""The authenticator: only listed keys may connect, and a key's role limits its requests.

ZeroMQ's CURVE proves that a peer holds its key, and encrypts all messages. During the handshake libzmq asks this module
whether a key is listed (ZAP protocol, RFC 27). The list may change later, so the cloud looks up the key of each message
again.

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
from llama.wire import Acknowledge, Collect, ErrorCode, Forget, Hello, Publish, Refused, Request, Status, Withdraw

MAX_SESSIONS_PER_KEY = 4
HANDSHAKE_MS = 10_000  # libzmq drops a peer that has not completed the handshake by then
_ZAP = "inproc://zeromq.zap.01"  # fixed by libzmq
_DOMAIN = "cloud"
_MAX_AT_ONCE = 16  # maximum handshakes answered per call, so that the I/O thread's other work gets its turn


@dataclass(frozen=True)
class CloudKeys:
    """The cloud's key pair, and the allow list of its peers.

    Args:
        own: the cloud's key pair.
        allowed: the allow list.
        max_sessions: maximum sessions of one key at a time.
    """

    own: KeyPair
    allowed: AllowList
    max_sessions: int = MAX_SESSIONS_PER_KEY


class Authenticator:
    """ZeroMQ's authenticator (ZAP) of one socket. Only the thread that reads that socket uses it.

    pyzmq's authenticator (``zmq.auth``) answers in a separate thread or event loop. Here the thread that reads the
    socket also answers. So the cloud refuses a key that was removed from the allow list from the next message on.

    Args:
        keys: the cloud's key pair and the allow list.
        context: the socket's context; libzmq sends its ZAP requests within it.

    Raises:
        KeysError: libzmq was built without CURVE.
    """

    def __init__(self, keys: CloudKeys, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        if not zmq.has("curve"):
            raise KeysError("this ZeroMQ was built without CURVE encryption; install pyzmq from PyPI")
        self.keys = keys
        self.requests: zmq.Socket[bytes] = context.socket(zmq.REP)  # receives libzmq's ZAP requests
        self.requests.setsockopt(zmq.LINGER, 0)
        self.requests.bind(_ZAP)
        self._seen_version, self._seen = keys.allowed.version, keys.allowed.keys

    def guard(self, router: zmq.Socket[bytes]) -> None:
        """Let only listed keys connect to ``router``. Call this before it is bound."""
        own = self.keys.own
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, own.secret.encode())
        router.setsockopt(zmq.CURVE_PUBLICKEY, own.identity.public.encode())
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def answer(self) -> int:
        """Answer libzmq's ZAP requests. All messages of an accepted peer carry its key as their ``User-Id``.

        Returns:
            number of rejected peers.
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
        """Return the public key of a message's sender."""
        try:
            return str(frame.get("User-Id"))
        except (zmq.ZMQError, KeyError):
            return ""  # never listed

    def changes(self) -> tuple[int, int] | None:
        """Return how many keys were added to the allow list, and removed, since the last call; None if unchanged."""
        allowed = self.keys.allowed
        allowed.refresh()
        if allowed.version == self._seen_version:
            return None
        before, self._seen_version, self._seen = self._seen, allowed.version, allowed.keys
        return len(self._seen - before), len(before - self._seen)

    def is_listed(self, owner: str) -> bool:
        """Return True if a key is listed."""
        return self.keys.allowed.find(owner) is not None

    def close(self) -> None:
        """Stop answering: no further peer can connect."""
        self.requests.close()


def listed_identity(keys: CloudKeys, owner: str) -> Identity:
    """Return the identity that a key has now.

    Raises:
        Refused: ``not_allowed``: the key is not listed any more.
    """
    identity = keys.allowed.find(owner)
    if identity is None:
        raise Refused(ErrorCode.NOT_ALLOWED, "this key is not listed any more", "ask the provider to list it")
    return identity


def check_role(identity: Identity, request: Request) -> None:
    """Check that an identity's role allows a request, and that a vendor's request names the vendor itself.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Hello):
        return
    if isinstance(request, Collect | Acknowledge | Publish | Withdraw):
        does, what = "collect", "deliveries"
        if isinstance(request, Publish | Withdraw):
            does, what = "publish", "sheets"
        _check_is(identity, "vendor", f"{does} {what}")
        if request.vendor != identity.name:
            raise Refused(
                ErrorCode.NOT_ALLOWED, f"these are another vendor's {what}", "set --vendor to the name in the key"
            )
    elif isinstance(request, Status):
        _check_is(identity, "operator", "read the status")
    else:
        _check_is(identity, "device", "forget runs" if isinstance(request, Forget) else "run sessions")


def _check_is(identity: Identity, role: str, does: str) -> None:
    if identity.role != role:
        raise Refused(
            ErrorCode.NOT_ALLOWED, f"a key of role {identity.role} may not {does}", f"use a key of role {role}"
        )


def check_keyless(request: Request, address: Callable[[], str]) -> None:
    """Check that a cloud without keys may answer a request. It reports its status on its own machine only.

    Args:
        request: the request.
        address: returns the IP address of its sender.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Publish | Withdraw):
        raise Refused(
            ErrorCode.NOT_ALLOWED,
            "a cloud without keys accepts no sheets, since it cannot verify the third party",
            "ask the provider to start the cloud with --key_file and --allow_dir",
        )
    if isinstance(request, Status) and not is_local(address()):
        raise Refused(
            ErrorCode.NOT_ALLOWED,
            "a cloud without keys reports its status on its own machine only",
            "ask there, or start the cloud with --key_file and --allow_dir and use a key of role operator",
        )


def is_local(address: str) -> bool:
    """Return True if a peer's address is a loopback address of this machine."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
