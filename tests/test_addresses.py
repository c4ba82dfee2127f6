"""Claims about addresses: what is one, and hosts whose names have an IPv6 address, an IPv4 address or both.

The names are looked up by the system: in a namespace of its own a process has another ``/etc/hosts``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.addresses import Endpoint, NotAnAddress, UnknownHost, known, looked_up, stays_here, tcp_of, to_listen
from llama.client.link import Link
from llama.errors import UsageError
from tests.programs import needed
from tests.support import ROOT, Process

HOSTS = """
127.0.0.1 localhost
::1 localhost
::1 six
127.0.0.1 four
::1 both
127.0.0.1 both
192.0.2.1 six-works
::1 six-works
2001:db8::1 four-works
127.0.0.1 four-works
2001:db8::1 elsewhere
::1 with_underscore
::1 xn--bcher-kva.example
127.0.0.1 moving
"""
BEGINNING = """
import json, sys, threading, time
import zmq
from pathlib import Path
from llama import wire
from llama.client.link import Link
from llama.errors import SplitLlamaError
from tests.test_link import FalseCloud, properly

def hello(address, deadline_s=8.0):
    "What a device at that address is told, and its notices."
    notices = []
    try:
        with Link(address, deadline_s=deadline_s, on_notice=notices.append) as link:
            return type(link.hello()).__name__, notices
    except SplitLlamaError as err:
        return str(err), notices

class Cloud(FalseCloud):
    def __init__(self, address):
        zmq.Context.instance().setsockopt(zmq.IPV6, int("[" in address))
        super().__init__(lambda body: wire.encode(properly(body)), address)
        self.port = self.endpoint.rpartition(":")[2]
"""


MOVING = """
hosts = Path(sys.argv[1])
def moves_to(address):
    hosts.write_text("127.0.0.1 localhost\\n" + (f"{address} moving\\n" if address else ""))
before, notices, moved = hosts.read_text(), [], []
first = Cloud("tcp://127.0.0.1:*")
with Link(f"tcp://moving:{first.port}", deadline_s=20.0, on_notice=notices.append) as link:
    with first:
        moved.append(type(link.hello()).__name__)
    moves_to("::1")
    with Cloud(f"tcp://[::1]:{first.port}") as second:
        moved.append(type(link.hello()).__name__)
        asked = len(second.asked)
    moves_to("")
    threading.Timer(1.2, moves_to, ["127.0.0.1"]).start()
    with Cloud(f"tcp://127.0.0.1:{first.port}"):
        moved.append(type(link.hello()).__name__)
hosts.write_text(before)
"""
REACHED = """
reached = {}
with Cloud("tcp://[::1]:*") as six, Cloud("tcp://127.0.0.1:*") as four:
    for name in ("six", "with_underscore", "bücher.example", "[::1]", "both", "six-works"):
        reached[name] = hello(f"tcp://{name}:{six.port}")
    for name in ("four", "127.0.0.1", "both", "localhost", "four-works"):
        reached[name + " 4"] = hello(f"tcp://{name}:{four.port}")
"""
LISTENED = """
from llama.addresses import stays_here, to_listen
from llama.cloud.server import Server
from llama.errors import BindError
from llama.tokenizer import Tokenizer
from tests.test_link import WELCOME
tokenizer, servers = Tokenizer("tests/data/tiny-llama3/tokenizer.model"), []
def bound(address):
    servers.append(Server(tokenizer, WELCOME, slots=1))
    try:
        return servers[-1].bind(address).rpartition(":")[0]
    except BindError as err:
        return str(err)
names = ("six", "four", "both", "six-works", "four-works", "elsewhere", "nobody.invalid", "lo", "[::1]", "[::]", "*")
listened = {name: bound(f"tcp://{name}:*") for name in names}
here = [name for name in names[:6] if all(map(stays_here, to_listen(f"tcp://{name}:*")))]
"""
END = """
said = {"reached": reached, "moved": [moved, asked, notices], "listened": listened, "here": here}
print(json.dumps(said), flush=True)
import os
os._exit(0)  # servers that never served would be waited for
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a process says, on a machine whose ``/etc/hosts`` is ours."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    hosts = tmp_path_factory.mktemp("hosts") / "hosts"
    hosts.write_text(HOSTS)
    own = [needed("unshare"), "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mounted = 'mount --bind "$1" /etc/hosts && '
    if subprocess.run([*own, "sh", "-c", f"{mounted} true", "sh", hosts], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody have a mount namespace of their own")
    code = BEGINNING + REACHED + MOVING + LISTENED + END
    command = [*own, "sh", "-c", f'{mounted} exec "$2" -c "$3" "$1"', "sh", str(hosts), sys.executable, code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.process
def test_a_device_reaches_a_cloud_by_any_name_that_leads_to_it(said: Any) -> None:
    """IPv6 only, IPv4 only, or both, of which either one is another's; IPv4 first, as ever, and at once."""
    reached = said["reached"]
    assert {name: answer for name, (answer, _) in reached.items()} == dict.fromkeys(reached, "Welcome")
    assert [name for name, (_, notices) in reached.items() if notices] == ["both", "six-works"]


@pytest.mark.process
def test_a_name_is_looked_up_anew_for_each_connection(said: Any) -> None:
    """A cloud moves to another address, of the other kind, while nothing is asked, and is found at the first question.

    And its name is unknown for a while, which is no news to who has been answered before.
    """
    answers, asked, notices = said["moved"]
    assert answers == ["Welcome"] * 3 and asked == 1
    assert not any("firewall" in notice for notice in notices)


@pytest.mark.process
def test_a_cloud_listens_on_what_its_name_stands_for(said: Any) -> None:
    """The first address that this machine has; of a name that is none of its addresses it says so."""
    listened = said["listened"]
    assert "cannot listen on tcp://elsewhere:*: no such network address on this machine" in listened.pop("elsewhere")
    assert "this machine cannot resolve the host name nobody.invalid" in listened.pop("nobody.invalid")
    assert listened == {
        "six": "tcp://[::1]", "four": "tcp://127.0.0.1", "both": "tcp://127.0.0.1", "six-works": "tcp://[::1]",
        "four-works": "tcp://127.0.0.1", "lo": "tcp://127.0.0.1", "[::1]": "tcp://[::1]", "[::]": "tcp://[::]",
        "*": "tcp://0.0.0.0",
    }  # fmt: skip
    assert said["here"] == ["six", "four", "both"]  # without keys, one address elsewhere is one too many


def test_who_looks_for_a_host_that_nobody_knows_is_told_at_once() -> None:
    """Not after the deadline; with its name, and without a word of firewalls and keys."""
    began = time.monotonic()
    with Link("tcp://gpu-box.invalid:5555", deadline_s=600, on_notice=lambda _: None) as link:
        for _ in range(2):  # who follows a cloud asks again
            with pytest.raises(
                Exception, match=r"cannot resolve the host name gpu-box\.invalid .*; check its spelling"
            ):
                link.hello()
    assert time.monotonic() - began < 300


@pytest.mark.process
def test_who_follows_a_cloud_whose_name_nobody_knows_is_told_so_once() -> None:
    """And asks on: the name service may be late, as when a machine starts."""
    with Process(
        "-m", "llama.status", "--cloud", "tcp://gpu-box.invalid:5", "--follow", "--interval", "0.2"
    ) as follows:
        line = follows.line_with("cannot resolve the host name gpu-box.invalid")
        assert line.startswith("status: ") and "trying until it answers" in line
        time.sleep(1)
        assert len(follows.err) == 1 and follows.process.poll() is None


@pytest.mark.long
def test_a_look_up_that_takes_its_time_hears_who_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends with the deadline, as all waiting does; the resolver is the one thing here that is not the system's."""

    def slow(*_: object, **__: object) -> None:
        time.sleep(15)
        raise OSError("nothing")

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    began = time.monotonic()
    with Link("tcp://slow.invalid:5555", deadline_s=1.0, on_notice=lambda _: None) as link:
        with pytest.raises(Exception, match=r"not resolved the name slow\.invalid yet; check its name service"):
            link.hello()
        link.while_waiting = enough
        with pytest.raises(Enough):
            link.hello()
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://::1:5555", r"an IPv6 address needs brackets: tcp://\[::1\]:5555"),
        ("tcp://[localhost]:5555", "the text in brackets is not an IPv6 address"),
        ("tcp://[::1:5555", "needs brackets"),
        ("tcp://[fe80::1]:5555", r"a link-local address needs its network interface: \[fe80::1%eth0\]"),
        ("tcp://[fe80::1%none9]:5555", "no network interface of that name"),
        ("tcp://*:5555", "write"),
        ("tcp://some host:5555", "write"),
        ("tcp://host/path:5555", "write"),
        ("tcp://host:*", "write"),
        ("tcp://host:0", "write"),
        ("tcp://host:\u0665", "write"),
        ("tcp://:5555", "write"),
        ("tcp://010.0.0.5:5555", "without leading zeros"),  # 8.0.0.5 to the resolver
        ("tcp://1:5555", "four numbers"),
        ("tcp://0x7f.1:5555", "four numbers"),
        ("tcp://300.0.0.1:5555", "from 0 to 255"),
        ("ipc://\udcff:1", "it is not UTF-8"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be_one(address: str, said: str) -> None:
    """Before anybody is looked up."""
    with pytest.raises(UsageError, match=f"--cloud .* is not an address to connect to.*{said}") as refused:
        Link(address)
    assert str(refused.value).endswith("write tcp://HOST:PORT")


def test_a_literal_address_needs_no_look_up() -> None:
    """And IPv6 is asked of libzmq only for IPv6."""
    assert known("tcp://127.0.0.1:5555") == Endpoint("tcp://127.0.0.1:5555")
    assert known("tcp://[::1]:5555") == Endpoint("tcp://[::1]:5555", ipv6=True)
    assert known("tcp://[fe80::1%25lo]:*") == Endpoint("tcp://[fe80::1%lo]:*", ipv6=True)
    assert known("tcp://localhost:5555") is None
    assert to_listen("tcp://*:5555") == [Endpoint("tcp://*:5555")]
    for name in ("a" * 64 + ".example", "a..b", "\u200b"):
        with pytest.raises(UnknownHost, match="cannot resolve the host name"):
            looked_up(f"tcp://{name}:1")


@given(st.text("tcp:/[]%*;.1a5 -_é", max_size=30) | st.text(max_size=20))
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    """No exception of another kind, with or without the scheme."""
    for address in (text, f"tcp://{text}", f"tcp://{text}:5555"):
        try:
            tcp = tcp_of(address)
        except NotAnAddress:
            continue
        assert tcp is None or (tcp.host and (tcp.port == "*" or int(tcp.port) < 65536))
        if tcp is not None and tcp.ip is not None and tcp.ip.is_loopback:
            assert stays_here(known(address) or Endpoint(""))
