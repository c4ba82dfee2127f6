"""Network addresses, ``tcp://HOST:PORT``: their syntax, and the look-up of host names.

libzmq can look names up, but only for IPv4 or, with ``ZMQ_IPV6``, for IPv6 first. It takes the first address found, and
does not report a missing one. So names are looked up here, and libzmq gets addresses. IPv4 comes first, as in libzmq: a
name that has both often has an IPv6 address that leads nowhere.

The system's name service may take any time for a look-up, and cannot be interrupted: see :class:`Lookup`.

Knows: the resolver, how libzmq writes addresses. Does not know: sockets.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_MAX_PORT = 65535
_SLICE_S = 0.05  # the longest single wait


class NotAnAddress(ValueError):
    """The error for a text that is no address; empty if only the syntax can be stated."""


def address_refusal(use: str, why: str = "", *, flag: str = "") -> str:
    """Return the error for a text that is no address to ``use``: the reason if known, and the syntax with ``flag``."""
    return f"not an address to {use}{f': {why}' if why else ''}; write {f'{flag} ' if flag else ''}tcp://HOST:PORT"


class UnknownHost(Exception):
    """The error for a host name that this machine does not know; the message names it."""


@dataclass(frozen=True)
class Endpoint:
    """An address for libzmq.

    Attributes:
        address: in libzmq's spelling.
        ipv6: the socket needs ``ZMQ_IPV6``.
    """

    address: str
    ipv6: bool = False


@dataclass(frozen=True)
class Tcp:
    """The parts of a TCP address.

    Attributes:
        host: a name, an IPv4 address, or an IPv6 address without brackets; ``*`` and interfaces for listening.
        port: digits, or ``*``.
    """

    host: str
    port: str

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The IP address, if the host is one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def has_a_port(address: str) -> bool:
    """Return whether an address ends in a port that exists, or ``*``; libzmq takes 65536 + p as p."""
    port = address.rpartition(":")[2]
    return port == "*" or (re.fullmatch("[0-9]{1,5}", port) is not None and int(port) <= _MAX_PORT)


def tcp_of(address: str) -> Tcp | None:
    """Split a TCP address into its parts; return None for libzmq's other transports and special forms.

    Raises:
        NotAnAddress: the text is no address.
    """
    try:
        address.encode()
    except UnicodeEncodeError:
        raise NotAnAddress("it is not UTF-8") from None
    scheme, _, rest = address.partition("://")
    if scheme not in ("tcp", "ipc", "inproc"):
        raise NotAnAddress
    if not has_a_port(address) or not rest.rpartition(":")[0]:
        raise NotAnAddress
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or ";" in host:  # "source;destination"
        return None
    if host.startswith("[") and host.endswith("]"):
        return Tcp(_ipv6(host[1:-1]), port)
    if ":" in host:
        raise NotAnAddress(f"an IPv6 address needs brackets: tcp://[{host}]:{port}")
    if re.search(r"[\[\]\s/]", host):
        raise NotAnAddress
    tcp = Tcp(host, port)
    if tcp.ip is None and re.fullmatch(r"(0x[0-9a-fA-F]*|[0-9]+)(\.(0x[0-9a-fA-F]*|[0-9]+))*\.?", host):
        raise NotAnAddress(
            "an IPv4 address has four numbers from 0 to 255 without leading zeros, which some programs read as octal"
        )
    return tcp


def _ipv6(text: str) -> str:
    """Return the IPv6 address between brackets. Raises NotAnAddress."""
    text = re.sub("%25(?=.)", "%", text)  # the form in URLs (RFC 6874)
    try:
        ip = ipaddress.IPv6Address(text)
    except ValueError:
        raise NotAnAddress("the text in brackets is not an IPv6 address") from None
    if ip.scope_id is None:
        if ip.is_link_local:
            raise NotAnAddress(f"a link-local address needs its network interface: [{text}%eth0]")
    elif not ip.scope_id.isdecimal():
        try:
            socket.if_nametoindex(ip.scope_id)
        except OSError:
            raise NotAnAddress("this machine has no network interface of that name") from None
    return text


def known(address: str) -> Endpoint | None:
    """Return the endpoint of an address that needs no look-up; None for a host name.

    Raises:
        NotAnAddress: the text is no address.
    """
    tcp = tcp_of(address)
    if tcp is None:
        return Endpoint(address)
    if tcp.ip is None:
        return None
    return _endpoint(tcp.host, tcp.port)


def name_of(address: str) -> str:
    """Return the host name, or an empty text if there is none. Raises NotAnAddress."""
    tcp = tcp_of(address)
    return "" if tcp is None or tcp.ip is not None else tcp.host


def looked_up(address: str) -> list[Endpoint]:
    """Return the current endpoints of a host name, IPv4 first; takes as long as the system likes.

    Raises:
        UnknownHost: there are none.
    """
    tcp = tcp_of(address)
    assert tcp is not None
    try:
        found = socket.getaddrinfo(tcp.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:  # UnicodeError: the text cannot be a name
        reason = f" ({err.strerror})" if isinstance(err, OSError) and err.strerror else ""
        raise UnknownHost(
            f"this machine cannot resolve the host name {tcp.host}{reason}; check its spelling, or give its IP address"
        ) from None
    hosts = {socket.AF_INET: list[str](), socket.AF_INET6: list[str]()}
    for family, _, _, _, there in found:
        if family in hosts:
            scope = there[3] if len(there) == 4 else 0
            host = str(there[0]).partition("%")[0]
            hosts[socket.AddressFamily(family)].append(f"{host}%{scope}" if scope else host)
    in_order = dict.fromkeys([*hosts[socket.AF_INET], *hosts[socket.AF_INET6]])
    return [_endpoint(host, tcp.port) for host in in_order]


def _endpoint(host: str, port: str) -> Endpoint:
    return Endpoint(f"tcp://[{host}]:{port}", ipv6=True) if ":" in host else Endpoint(f"tcp://{host}:{port}")


class Lookup:
    """A look-up that has begun, in a thread that the caller need not wait for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._found: list[Endpoint] | UnknownHost | None = None
        self._thread = threading.Thread(target=self._look, name="look-up", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            self._found = looked_up(self._address)
        except UnknownHost as err:
            self._found = err

    def wait(self, seconds: float, while_waiting: Callable[[], None] = lambda: None) -> list[Endpoint] | None:
        """Return the endpoints, or None if the look-up still runs after so many seconds.

        ``while_waiting`` is called several times a second; it may raise to wait no longer.

        Raises:
            UnknownHost: the look-up found nothing.
        """
        give_up = time.monotonic() + seconds
        while self._thread.is_alive() and (left := give_up - time.monotonic()) > 0:
            self._thread.join(min(left, _SLICE_S))
            while_waiting()
        if isinstance(self._found, UnknownHost):
            raise self._found
        return self._found


LISTENING_LOOKUP_S = 20.0  # for the name to listen on


def to_listen(address: str) -> list[Endpoint]:
    """Return the endpoints to listen on for ``address``; the first one that this machine has is used.

    Raises:
        NotAnAddress: the text is no address.
        UnknownHost: the host name is unknown, or its look-up takes too long.
    """
    tcp = tcp_of(address)
    if tcp is None or tcp.host == "*":
        return [Endpoint(address)]
    if tcp.ip is not None:
        return [_endpoint(tcp.host, tcp.port)]
    if tcp.host in {name for _, name in socket.if_nameindex()}:  # libzmq finds its addresses, of one kind at a time
        return [Endpoint(address), Endpoint(address, ipv6=True)]
    found = Lookup(address).wait(LISTENING_LOOKUP_S)
    if found is None:
        raise UnknownHost(
            f"the look-up of the name {tcp.host} takes more than {LISTENING_LOOKUP_S:.0f} s; check this machine's "
            f"name service, or give the IP address"
        )
    return found


def stays_here(endpoint: Endpoint) -> bool:
    """Return whether only this machine itself can reach it."""
    scheme = endpoint.address.partition("://")[0]
    if scheme in ("ipc", "inproc"):
        return True
    tcp = tcp_of(endpoint.address)
    return tcp is not None and tcp.ip is not None and tcp.ip.is_loopback


def loopback() -> tuple[socket.AddressFamily, str]:
    """Return the family and address by which this machine reaches itself: 127.0.0.1, or ::1 without any IPv4."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as there:
                there.bind((host, 0))
            return family, host
        except OSError:
            continue
    return socket.AF_INET, "127.0.0.1"  # the caller's bind reports the problem


def in_url(host: str) -> str:
    """Return the address of a host in the form of a URL."""
    return f"[{host}]" if ":" in host else host
