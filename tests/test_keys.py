"""Claims about keys: which peers may connect, with which role, for how long, and what an eavesdropper can see."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from llama import wire
from llama.client.link import Link
from llama.cloud.allow_list import AllowList
from llama.cloud.config import CloudConfig
from llama.cloud.event_log import EventLog
from llama.cloud.listening import check_open_to, endpoints_of
from llama.cloud.provider import ProviderServices
from llama.cloud.router import new_router
from llama.cloud.run_store import RunStore
from llama.edge.session import CloudSession as DeviceSession
from llama.errors import CloudRefused, CloudUnreachable, KeysError, UsageError
from llama.keys import (
    Identity,
    LinkKeys,
    as_flags,
    link_keys,
    make_keys,
    parse_private,
    parse_public,
    read_key,
    read_public,
)
from llama.sheets import read_all
from llama.tensor_frames import hidden_to_frame
from llama.tokenizer import Tokenizer
from llama.wire import (
    Acknowledge,
    Close,
    Collect,
    Deliveries,
    FetchSheet,
    Final,
    Finish,
    Forget,
    Hello,
    ListSheets,
    Opened,
    Publish,
    Request,
    Status,
    Tokens,
    Withdraw,
)
from tests.pages import controller_of, device_of
from tests.processes import ask, cloud
from tests.proxy import Proxy
from tests.support import GREEDY, Halves, Keys, Peer, Process, Served, code_of, open_request, run_main, step_of, written

Splits = Callable[..., Path]
SHEETS = {
    "system.txt": "Be kind.",
    "gifts.toml": 'title = "Gifts"\nasks_for = ["name"]\nquestions = ["For {name}."]',
    "plain.toml": 'title = "Plain"\nquestions = ["Say something."]',
    "insurer/cover.toml": 'title = "Cover"\nquestions = ["Trip"]',
}
PROMPT = [258, 84, 104, 101, 32]
NOWHERE_S = 1.5  # seconds for which a rejected peer may keep trying


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer, keys: Keys) -> Iterator[Served]:
    """A cloud with keys. After each test a listed device still gets its tokens."""
    with Served(halves, tokenizer, keys=keys.of_the_cloud()) as served:
        yield served
        afterwards = keys.make("afterwards")
        assert served.run(PROMPT, 4, keys=afterwards) == halves.tokens(PROMPT, 4)


def gets_nowhere(endpoint: str, keys: LinkKeys | None) -> str:
    """Return the error that a device gets if the cloud does not let it connect."""
    with Link(endpoint, deadline_s=NOWHERE_S, on_notice=lambda _: None, keys=keys) as link:
        with pytest.raises(CloudUnreachable) as reported:
            link.hello()
    return str(reported.value)


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until a condition holds. The cloud reads the allow list within a second of any change."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- peers that may connect


def test_a_listed_key_gets_a_whole_reply(served: Served, keys: Keys) -> None:
    """It gets the same tokens as without keys."""
    phone = keys.make("phone")
    assert served.run(PROMPT, 8, keys=phone) == served.halves.tokens(PROMPT, 8)


def test_a_key_that_is_not_listed_gets_nowhere_and_is_told_to_look_at_the_keys(served: Served, keys: Keys) -> None:
    """A refused handshake gives no reason, so the error names what the person should check."""
    reported = gets_nowhere(served.endpoint, keys.make("stranger", listed=False))
    assert "this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's" in reported


def test_a_device_that_expects_another_cloud_gets_nowhere(served: Served, keys: Keys, tmp_path: Path) -> None:
    """The device's key is listed, but the cloud cannot prove that it has the pinned key. It never sees a request."""
    phone = keys.make("phone")
    (tmp_path / "elsewhere").mkdir()
    make_keys("cloud", "cloud", tmp_path / "elsewhere")
    other_cloud = read_public(str(tmp_path / "elsewhere" / "cloud.pub"), "cloud")
    gets_nowhere(served.endpoint, LinkKeys(phone.own, other_cloud))


def test_a_device_without_keys_gets_nowhere_where_keys_are_used(served: Served) -> None:
    """The cloud does not offer ZeroMQ's NULL mechanism."""
    reported = gets_nowhere(served.endpoint, None)
    assert "--allow_dir" not in reported and "if that cloud has keys, give --key_file and --cloud_key" in reported


def test_a_device_with_keys_gets_nowhere_where_there_are_none(halves: Halves, tokenizer: Tokenizer, keys: Keys) -> None:
    """It does not fall back to an unencrypted connection."""
    with Served(halves, tokenizer) as open_to_all:
        gets_nowhere(open_to_all.endpoint, keys.make("phone"))


def test_a_device_with_a_listed_public_key_but_another_secret_gets_nowhere(served: Served, keys: Keys) -> None:
    """Public keys are not secret: having one proves nothing."""
    phone, thief = keys.make("phone"), keys.make("thief", listed=False)
    stolen = type(phone.own)(phone.own.identity, thief.own.secret)
    gets_nowhere(served.endpoint, LinkKeys(stolen, phone.cloud))


def test_a_key_that_is_added_later_works_without_a_restart(served: Served, keys: Keys) -> None:
    """The key is refused, then listed, then accepted."""
    late = keys.make("late", listed=False)
    gets_nowhere(served.endpoint, late)
    keys.list("late")
    assert served.run(PROMPT, 4, keys=late) == served.halves.tokens(PROMPT, 4)


def test_a_key_that_is_removed_is_refused_at_its_next_message_and_its_session_is_gone(
    served: Served, keys: Keys
) -> None:
    """This holds on its open connection. Listed again, the key is accepted, but its session stays lost."""
    phone, rows = keys.make("phone"), served.halves.rows(PROMPT)
    with served.peer(keys=phone) as peer:
        session = served.open(peer, open_request(len(PROMPT)))
        assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
        keys.remove("phone")
        assert peer.refusal(step_of(session, 2, 0, rows), rows) == "not_allowed"
        assert peer.refusal(Hello(wire.VERSION)) == "not_allowed"
        wait_until(lambda: len(served.server.sessions) == 0)
        gets_nowhere(served.endpoint, phone)
        keys.list("phone")
        assert peer.refusal(step_of(session, 2, 0, rows), rows) == "unknown_session"


def test_the_sessions_of_a_removed_key_are_closed_also_if_it_stays_silent(served: Served, keys: Keys) -> None:
    """The sessions of other keys stay open."""
    gone, stays = keys.make("gone"), keys.make("stays")
    with served.peer(keys=gone) as one, served.peer(keys=stays) as other:
        served.open(one, open_request())
        with served.session(other, keys=stays):
            keys.remove("gone")
            wait_until(lambda: len(served.server.sessions) == 1)


def test_a_step_that_is_computed_while_its_key_is_removed_gets_no_tokens(served: Served, keys: Keys) -> None:
    """When the cloud has computed them, the session is closed."""
    phone, rows = keys.make("phone"), served.halves.rows(PROMPT)
    with served.peer(keys=phone) as peer:
        session = served.open(peer, open_request(len(PROMPT)))
        with served.halves.cloud.held():
            peer.send_request(step_of(session, 1, 0, rows), rows)
            assert served.halves.cloud.computing.wait(20)
            keys.remove("phone")
            wait_until(lambda: len(served.server.sessions) == 0)
        assert code_of(peer.receive()) == "unknown_session"


def test_the_device_tells_a_person_whose_key_was_removed(served: Served, keys: Keys) -> None:
    """The device shows it like any other refusal."""
    phone = keys.make("phone")
    with Link(served.endpoint, keys=phone) as link:
        welcome = link.hello()
        with pytest.raises(CloudRefused, match=r"\(not_allowed\): this key is not listed any more; ask the provider"):
            with DeviceSession(link, welcome, prompt_tokens=5, sampling=GREEDY, stop_ids=()) as session:
                keys.remove("phone")
                session.finish(0)


# ---- roles and owners


def test_each_role_may_send_its_own_requests(served: Served, keys: Keys) -> None:
    """Devices run sessions and read sheets.

    A vendor publishes its sheets and collects. An operator reads the status.
    """
    some = bytes(16)
    of_devices: list[Request] = [
        open_request(),
        Finish(some, 1, 0),
        Close(some, 1),
        ListSheets(),
        FetchSheet("birthday"),
        Forget(some),
    ]
    of_vendors: list[Request] = [
        Collect("insurer"),
        Acknowledge("insurer", (some,)),
        Publish("insurer", "cover", ""),
        Withdraw("insurer", "cover"),
    ]
    rows = served.halves.rows(PROMPT)
    device, vendor = keys.make("phone"), keys.make("insurer", "vendor")
    with served.peer(keys=device) as peer:
        assert {peer.refusal(each) for each in (*of_vendors, Status())} == {"not_allowed"}
        assert "not_allowed" not in {peer.refusal(each) for each in of_devices}
    with served.peer(keys=vendor) as peer:
        assert {peer.refusal(each) for each in (*of_devices, Status())} == {"not_allowed"}
        assert peer.refusal(step_of(some, 1, 0, rows), rows) == "not_allowed"
        assert "not_allowed" not in {peer.refusal(each) for each in of_vendors}
    with served.peer(keys=keys.make("nosy", "operator")) as peer:
        assert {peer.refusal(each) for each in (*of_devices, *of_vendors)} == {"not_allowed"}
        assert peer.refusal(Hello(wire.VERSION)) == "Welcome"
        assert peer.refusal(Status()) == "StatusReport"


def test_a_vendor_touches_no_other_vendors_deliveries_and_sheets(served: Served, keys: Keys) -> None:
    """The name in the request must be the key's name."""
    with served.peer(keys=keys.make("insurer", "vendor")) as peer:
        assert peer.refusal(Collect("florist")) == "not_allowed"
        assert peer.refusal(Acknowledge("florist", (bytes(16),))) == "not_allowed"
        assert peer.refusal(Publish("florist", "roses", 'questions = ["Which?"]')) == "not_allowed"
        assert peer.refusal(Withdraw("florist", "roses")) == "not_allowed"


def test_a_session_does_not_exist_for_any_other_key(served: Served, keys: Keys) -> None:
    """Another key cannot step, finish, close or resume it, even with its id and its run's id. Its owner continues."""
    phone, thief, rows = keys.make("phone"), keys.make("thief"), served.halves.rows(PROMPT)
    request = open_request(len(PROMPT))
    with served.peer(keys=phone) as mine, served.peer(keys=thief) as theirs:
        session = served.open(mine, request)
        step = step_of(session, 1, 0, rows)
        assert theirs.refusal(step, rows) == "unknown_session"
        tokens = mine.ask(step, rows)
        assert isinstance(tokens, Tokens)
        for stolen in (Finish(session, 2, 1), Close(session, 2)):
            assert theirs.refusal(stolen) == "unknown_session"
        assert theirs.refusal(step, rows) == "unknown_session"  # the last reply is not repeated, either
        same_run = served.open(theirs, request)
        assert same_run != session
        assert theirs.refusal(Close(same_run, 1)) == "Closed"
        assert mine.refusal(Close(same_run, 1)) == "unknown_session"
        assert served.open(mine, request) == session
        assert mine.refusal(Finish(session, 2, 1)) == "Final"
        assert mine.refusal(Close(session, 3)) == mine.refusal(Close(session, 3)) == "Closed"
        assert theirs.refusal(Close(session, 3)) == "unknown_session"


def test_a_run_of_another_key_leaves_the_row_and_the_delivery_of_one_with_the_same_id(
    halves: Halves, tokenizer: Tokenizer, keys: Keys, tmp_path: Path
) -> None:
    """The thief knows the run's id and finishes first, with the same sheet. The file contains neither key."""
    path, phone, thief = tmp_path / "runs.sqlite", keys.make("phone"), keys.make("thief")
    with closing(RunStore(path)) as record:
        services = ProviderServices.of(
            tokenizer, store=record, directory=read_all(str(written(tmp_path / "sheets", SHEETS)))
        )
        with Served(halves, tokenizer, services=services, keys=keys.of_the_cloud()) as served:
            mine = open_request(resumed_ids=tuple(b"mine"), prompt_id="insurer/cover")
            for key, text in ((thief, b"his"), (phone, b"mine"), (thief, b"his"), (phone, b"mine")):
                with served.peer(keys=key) as peer:
                    request = msgspec.structs.replace(mine, resumed_ids=tuple(text))
                    with served.session(peer, request, keys=key) as session:
                        final = peer.ask(Finish(session, 1, len(text)))
                assert isinstance(final, Final) and final.copy is wire.DeliveryStatus.QUEUED
            assert [(run.run_id, run.text) for run in record.runs(9)] == [(mine.run_id, "mine"), (mine.run_id, "his")]
            with served.peer(keys=keys.make("insurer", "vendor")) as vendor:
                came = vendor.ask(Collect("insurer"))
                assert isinstance(came, Deliveries)
                assert [delivery.text for delivery in came.deliveries] == ["his", "mine"]
                assert came.deliveries[0].run_id == mine.run_id != came.deliveries[1].run_id
                assert vendor.refusal(Acknowledge("insurer", (mine.run_id,))) == "Acknowledged"
                left = vendor.ask(Collect("insurer"))
                assert isinstance(left, Deliveries) and left.deliveries == came.deliveries[1:]
        kept = b"".join(file.read_bytes() for file in tmp_path.glob("runs.sqlite*"))
    assert mine.run_id in kept
    for key in (phone, thief):
        assert key.own.identity.public.encode() not in kept


def test_one_key_has_so_many_sessions_and_leaves_the_others_for_others(
    halves: Halves, tokenizer: Tokenizer, keys: Keys
) -> None:
    """Over its share the key is told to wait. Other keys are served."""
    with Served(halves, tokenizer, slots=4, keys=keys.of_the_cloud(max_sessions=2)) as served:
        greedy, other = keys.make("greedy"), keys.make("other")
        with served.peer(keys=greedy) as peer:
            first = [served.open(peer, open_request()) for _ in range(2)]
            refused = peer.ask(open_request())
            assert isinstance(refused, wire.Error) and refused.code == "busy" and refused.retry_after_s
            assert served.run(PROMPT, 2, keys=other) == halves.tokens(PROMPT, 2)
            assert peer.refusal(Close(first[0], 1)) == "Closed"
            assert isinstance(peer.ask(open_request()), Opened)


# ---- eavesdroppers


def test_nothing_readable_crosses_the_network(served: Served, keys: Keys, halves: Halves, tokenizer: Tokenizer) -> None:
    """Neither rows nor field names, in either direction. Without keys, both can be read."""
    phone, rows = keys.make("phone"), served.halves.rows(PROMPT)
    names = [b"prompt_tokens", b"temperature", b"session", b"position", b"compute_us", b"fingerprint", b"welcome"]
    sought = [*names, bytes(hidden_to_frame(rows))[:32]]

    def seen(endpoint: str, keys: LinkKeys | None) -> bytes:
        with Proxy(endpoint) as proxy:
            with Peer(proxy.address, keys=keys) as peer:
                assert code_of(peer.ask(Hello(wire.VERSION))) == "Welcome"
                opened = peer.ask(open_request(len(PROMPT)))
                assert isinstance(opened, Opened)
                assert isinstance(peer.ask(step_of(opened.session, 1, 0, rows), rows), Tokens)
                assert code_of(peer.ask(Close(opened.session, 2))) == "Closed"
            return b"".join(bytes(each.out + each.back) for each in proxy.wires)

    assert not [each for each in sought if each in seen(served.endpoint, phone)]
    with Served(halves, tokenizer) as open_to_all:
        in_the_clear = seen(open_to_all.endpoint, None)
    assert [each for each in sought if each in in_the_clear] == sought


def test_a_recording_that_is_played_again_gets_nowhere(served: Served, keys: Keys) -> None:
    """A replay of all bytes that a listed device sent gets no answers.

    The cloud's half of the handshake is new for each connection.
    """
    phone = keys.make("phone")
    with Proxy(served.endpoint) as proxy:
        with Peer(proxy.address, keys=phone) as peer:
            session = served.open(peer, open_request())
            assert peer.refusal(Close(session, 1)) == "Closed"
        (recorded,) = proxy.wires
        sent, answered = bytes(recorded.out), bytes(recorded.back)
    opened = served.server.sessions.was_closed(session, phone.own.identity.public)
    assert opened and len(sent) > 500
    host, _, port = served.endpoint.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as replay:
        replay.settimeout(NOWHERE_S)
        replay.sendall(sent)
        came = b""
        try:
            while data := replay.recv(1 << 16):
                came += data
        except (TimeoutError, ConnectionError):
            pass
    assert len(came) < len(answered)  # a greeting and half a handshake, but no replies
    assert len(served.server.sessions) == 0


# ---- the allow list


def test_a_file_that_is_no_key_is_told_of_once_and_changes_nothing_for_the_others(keys: Keys) -> None:
    """Damaged, private, repeated, a directory, a pipe, a broken link. The cloud's own key lists no peer."""
    phone, reported = keys.make("phone"), list[str]()
    make_keys("spare", "device", keys.directory)
    (keys.allowed / "damaged.pub").write_bytes(b"\xff\x00")
    (keys.allowed / "private.pub").write_bytes((keys.directory / "spare.key").read_bytes())
    (keys.allowed / "z-again.pub").write_bytes((keys.directory / "phone.pub").read_bytes())
    (keys.allowed / "directory.pub").mkdir()
    os.mkfifo(keys.allowed / "pipe.pub")
    (keys.allowed / "nothing.pub").symlink_to("not-there")
    (keys.allowed / "notes.txt").write_text("not looked at")
    keys.list("cloud")
    now = 0.0
    allowed = AllowList(keys.allowed, reported.append, lambda: now)
    assert len(allowed) == 1 and allowed.find(phone.own.identity.public) == phone.own.identity
    assert [line.split("'")[1] for line in reported] == [
        "damaged.pub",
        "directory.pub",
        "nothing.pub",
        "pipe.pub",
        "private.pub",
        "z-again.pub",
    ]
    now = 10.0
    allowed.refresh()
    assert len(reported) == 6
    assert not [line for line in reported if phone.own.identity.public in line or phone.own.secret in line]


def test_a_file_that_is_written_over_counts_within_a_second(keys: Keys) -> None:
    """Overwriting does not change the directory, so the allow list checks the files themselves."""
    phone, other = keys.make("phone"), keys.make("other", listed=False)
    now = 0.0
    allowed = AllowList(keys.allowed, clock=lambda: now)
    before = allowed.version
    with (keys.allowed / "phone.pub").open("r+b") as file:
        file.write((keys.directory / "other.pub").read_bytes())
    now = 1.1
    assert allowed.find(phone.own.identity.public) is None
    assert allowed.find(other.own.identity.public) == other.own.identity
    assert allowed.version > before


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_a_key_is_read_whatever_its_lines_end_in(tmp_path: Path, end: str) -> None:
    """The private file, which begins with a comment, and the public file."""
    private, public = make_keys("phone", "device", tmp_path)
    before = read_key(str(private), "device")
    for path in (private, public):
        path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert read_key(str(private), "device") == before
    assert read_public(str(public), "device") == before.identity


def test_a_list_that_cannot_be_read_any_more_lists_nobody(keys: Keys) -> None:
    """All keys are listed again when the directory is back."""
    phone, reported = keys.make("phone"), list[str]()
    allowed = AllowList(keys.allowed, reported.append)
    keys.allowed.rename(keys.directory / "away")
    assert allowed.find(phone.own.identity.public) is None
    assert len(reported) == 1 and "no key is listed" in reported[0]
    (keys.directory / "away").rename(keys.allowed)
    assert allowed.find(phone.own.identity.public) == phone.own.identity
    with pytest.raises(KeysError, match=r"--allow_dir .*: cannot be read"):
        AllowList(keys.directory / "never")


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Let this process open no files, as if other peers' connections had used up all descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whoever_uses_up_all_descriptors_takes_nobody_off_the_list(keys: Keys) -> None:
    """Listed keys stay listed and removed keys are removed.

    A key that is added meanwhile counts once it can be read.
    """
    phone, gone, reported = keys.make("phone"), keys.make("gone"), list[str]()
    now = 0.0
    allowed = AllowList(keys.allowed, reported.append, lambda: now)
    late = keys.make("late", listed=False)
    keys.list("late")
    (keys.allowed / "gone.pub").unlink()
    with without_descriptors():
        now = 2.0
        assert allowed.find(phone.own.identity.public) == phone.own.identity
        assert allowed.find(gone.own.identity.public) is None
        assert allowed.find(late.own.identity.public) is None
    assert len(reported) == 1 and "Too many open files" in reported[0] and "no new key is listed" in reported[0]
    now = 4.0
    assert allowed.find(late.own.identity.public) == late.own.identity
    with (keys.allowed / "late.pub").open("r+b") as file:  # another file that cannot be read for now
        os.utime(file.fileno())
    with without_descriptors():
        now = 6.0
        assert allowed.find(late.own.identity.public) is None
        assert allowed.find(phone.own.identity.public) == phone.own.identity
    now = 8.0
    assert allowed.find(late.own.identity.public) == late.own.identity


def test_nobody_can_know_what_the_next_connection_is_called() -> None:
    """The generated routing ids start at a random number.

    libzmq aborts the process if a peer has chosen the id that it generates next, and it does not check that.
    """
    libc, first = ctypes.CDLL(None), set[bytes]()
    for _ in range(4):
        libc.srand(1)  # as in each process that does not seed rand()
        with zmq.Context() as context, new_router(context) as router, context.socket(zmq.REQ) as peer:
            peer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
            peer.send(b"")
            first.add(router.recv_multipart()[0])
            peer.setsockopt(zmq.LINGER, 0)
    assert len(first) == 4 and all(len(name) == 5 for name in first)


almost_keys = st.text(z85.Z85CHARS.decode(), min_size=40, max_size=40) | st.text(max_size=45)
almost_files = st.builds(
    lambda name, role, public, more: f'name = "{name}"\nrole = "{role}"\npublic = "{public}"\n{more}'.encode(),
    st.sampled_from(["phone", "Phone", "", "a" * 41, "x\\u000a"]),
    st.sampled_from(["device", "vendor", "operator", "cloud", "root"]),
    almost_keys | st.just("0" * 40),
    st.sampled_from(["", "secret = 'x'", "[table]", "name = 'again'", "more = 1"]),
)


@given(st.binary(max_size=300) | almost_files)
def test_whatever_a_file_holds_it_is_a_key_or_refused_without_a_word_of_it(raw: bytes) -> None:
    """The keys that are accepted are exactly those that libzmq accepts."""
    for parse in (parse_public, parse_private):
        try:
            parsed = parse(raw)
        except ValueError as refused:
            text = str(refused)
            assert text and text.isprintable() and len(text) < 200
            values = [part for part in raw.decode(errors="ignore").split('"') if len(part) == 40]
            assert not [value for value in values if value in text]
            continue
        assert isinstance(parsed, Identity) and parsed.public.encode() in raw
        with zmq.Context() as context, context.socket(zmq.REQ) as there:
            there.setsockopt(zmq.CURVE_SERVERKEY, parsed.public.encode())


@pytest.mark.parametrize(
    "value",
    ["", "a" * 39, "a" * 41, "a" * 45, "a" * 35, "~" + "a" * 39, "\u00e9" + "a" * 39, "0" * 40, "#" * 5 + "a" * 35],
    ids=["empty", "39", "41", "36 bytes", "28 bytes", "alphabet", "not ASCII", "zeros", "beyond 32 bits"],
)
def test_only_32_bytes_in_z85_are_a_key(value: str) -> None:
    """This holds for the public key of a device and for the secret in a private file."""
    with pytest.raises(ValueError, match=r"^public is not a key$"):
        parse_public(f'name = "phone"\nrole = "device"\npublic = "{value}"\n'.encode())
    public = zmq.curve_keypair()[0].decode()
    with pytest.raises(ValueError, match=r"^(secret is not a key|public does not belong to secret)$"):
        parse_private(f'name = "phone"\nrole = "device"\npublic = "{public}"\nsecret = "{value}"\n'.encode())


# ---- key files


def test_a_private_key_is_for_its_owners_eyes_only_whatever_the_umask(tmp_path: Path) -> None:
    """No other file is left beside the pair."""
    before = os.umask(0)
    try:
        private, public = make_keys("phone", "device", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [private, public]
    assert parse_private(private.read_bytes()).identity == parse_public(public.read_bytes())
    assert b"secret" not in public.read_bytes()
    assert parse_private(private.read_bytes()).secret not in repr(parse_private(private.read_bytes()))


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    """Neither half of a pair is overwritten, and no half is left if the other one exists already."""
    private, public = make_keys("phone", "device", tmp_path)
    kept = private.read_bytes(), public.read_bytes()
    with pytest.raises(KeysError, match="exists and is not written over"):
        make_keys("phone", "vendor", tmp_path)
    assert (private.read_bytes(), public.read_bytes()) == kept
    (tmp_path / "tablet.pub").symlink_to("nowhere")
    with pytest.raises(KeysError, match="exists"):
        make_keys("tablet", "device", tmp_path)
    assert not (tmp_path / "tablet.key").exists()
    with pytest.raises(KeysError, match="cannot be written"):
        make_keys("phone", "device", tmp_path / "not-there")


def test_a_key_file_that_others_may_read_or_that_is_of_another_role_is_refused(keys: Keys) -> None:
    """Each error says what to do."""
    keys.make("phone")
    private, cloud = keys.directory / "phone.key", str(keys.directory / "cloud.pub")
    with pytest.raises(KeysError, match="role device, and vendor is needed"):
        read_key(str(private), "vendor")
    for wanted in ("device", "cloud"):
        with pytest.raises(KeysError, match=r"phone\.key: this is a private key; give the \.pub file"):
            read_public(str(private), wanted)
    with pytest.raises(KeysError, match=r"phone\.pub: this is a public key; give the private one .*, NAME\.key"):
        read_key(str(private.with_suffix(".pub")), "device")  # a file that others may read
    with pytest.raises(KeysError, match="no such file"):
        read_key(str(keys.directory / "nobody.key"), "device")
    with pytest.raises(UsageError, match="--key_file requires --cloud_key"):
        link_keys(str(private), None, "device")
    with pytest.raises(UsageError, match="--cloud_key requires --key_file"):
        link_keys(None, cloud, "device")
    assert link_keys(None, None, "device") is None
    private.chmod(0o644)
    with pytest.raises(KeysError, match=r"others may read it .* chmod 600 .*phone\.key;"):
        read_key(str(private), "device")


def read_as(user: int, groups: list[int], path: Path) -> str:
    """Return the error that a process of that user and those groups gets for a private key; empty if it may use it."""
    end, begin = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups(groups)
            os.setresgid(groups[0], groups[0], groups[0])
            os.setresuid(user, user, user)
            reported = ""
            try:
                read_key(str(path), "cloud")
            except KeysError as err:
                reported = str(err)
            os.write(begin, reported.encode())
        finally:
            os._exit(0)
    os.close(begin)
    with open(end) as said:  # noqa: PTH123
        text = said.read()
    os.waitpid(child, 0)
    return text


ME, ANOTHER, OURS, FOREIGN = 23456, 23457, 34567, 34568  # no account of this machine has these ids
DAEMON = 1  # an account, and its group


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
@pytest.mark.parametrize(
    ("user", "owner", "group", "mode", "reported"),
    [
        (ME, 0, OURS, 0o440, ""),  # a Secret of Kubernetes with fsGroup
        (ME, 0, OURS, 0o640, ""),
        (ME, ANOTHER, OURS, 0o440, "its group may read it (mode 0440)"),  # only root's files may be shared so
        (ME, ME, OURS, 0o640, "its group may read it (mode 0640)"),  # no list of accounts names its other members
        (DAEMON, DAEMON, OURS, 0o640, ""),  # a listed account, and a group without other members
        (DAEMON, DAEMON, DAEMON, 0o640, ""),
        (DAEMON, DAEMON, 2, 0o640, "its group may read it (mode 0640)"),  # a group with another account
        (ME, ME, OURS, 0o400, ""),
        (0, 0, OURS, 0o440, ""),  # the same Secret, for a container that runs as root
        (0, 0, 0, 0o440, ""),
        (0, 0, FOREIGN, 0o440, "its group may read it (mode 0440)"),
        (ME, ME, FOREIGN, 0o640, "its group may read it (mode 0640)"),
        (ME, ME, DAEMON, 0o640, "its group may read it (mode 0640)"),  # a group with another account
        (ME, 0, OURS, 0o460, "its group may write to it (mode 0460)"),
        (ME, 0, OURS, 0o660, "its group may write to it"),
        (ME, 0, OURS, 0o444, "others may read it (mode 0444)"),
        (ME, ME, OURS, 0o604, "others may read it"),
        (ME, ME, OURS, 0o602, "others may write to it"),
        (ME, 0, OURS, 0o644, "for a Secret of Kubernetes set defaultMode: 0440"),
        (ME, ME, OURS, 0o777, "where that changes nothing (FAT, a network share, a Windows drive"),
        (ME, 0, FOREIGN, 0o440, "cannot be read (Permission denied)"),
    ],
)
def test_a_key_may_be_read_by_a_group_of_the_processs_own(
    keys: Keys, user: int, owner: int, group: int, mode: int, reported: str
) -> None:
    """This works through Kubernetes' links, in a world-writable directory.

    The group may only read, and others may not.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o1777)
        (directory / "..1").mkdir(0o755)
        (directory / "..1").chmod(0o755)
        (directory / "..data").symlink_to("..1")
        (directory / "cloud.key").symlink_to("..data/cloud.key")
        (directory / "..1" / "cloud.key").write_bytes((keys.directory / "cloud.key").read_bytes())
        os.chown(directory / "cloud.key", owner, group)
        (directory / "cloud.key").chmod(mode)
        said = read_as(user, [OURS, DAEMON, 2] if user else [0, OURS], directory / "cloud.key")
        assert (reported in said and f"key {directory}/cloud.key: " in said) if reported else not said
        assert not reported.startswith(("its", "others")) or f"chmod 600 {directory}/cloud.key" in said


ACL_USER, ACL_MASK, READ = 2, 16, 4  # linux/posix_acl.h; 1 is the owner, 4 the group, 32 others


def name_in_acl(path: Path, user: int) -> None:
    """Let an account read a file by its access control list (linux/posix_acl_xattr.h, version 2)."""
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (ACL_USER, READ, user), (4, 0, nobody), (ACL_MASK, READ, nobody), (32, 0, nobody)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError as err:
        pytest.skip(f"no access control lists here ({err.strerror})")


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_a_key_that_an_access_control_list_opens_to_another_account_is_refused(keys: Keys) -> None:
    """In its mode the group bits are the list's mask, so the group seems to be able to read it. chmod 600 closes it."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        key = Path(place) / "cloud.key"
        key.write_bytes((keys.directory / "cloud.key").read_bytes())
        os.chown(key, DAEMON, DAEMON)
        key.chmod(0o640)
        assert not read_as(DAEMON, [DAEMON], key)
        name_in_acl(key, ANOTHER)
        assert stat.S_IMODE(key.stat().st_mode) == 0o640
        assert "names may read it" in read_as(ANOTHER, [ANOTHER], key)  # the other account can read it
        reported = read_as(DAEMON, [DAEMON], key)
        assert "whom its access control list names may read it (mode 0640)" in reported
        assert f"chmod 600 {key} and setfacl -b {key};" in reported
        key.chmod(0o600)
        assert not read_as(DAEMON, [DAEMON], key)


# ---- command lines


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return run_main("-m", "llama.keys", *words)


@pytest.mark.process
def test_the_program_makes_a_pair_and_says_where_each_half_belongs(tmp_path: Path) -> None:
    """It never prints a key."""
    made = make("new", "phone", "--role", "device", "--dir", str(tmp_path))
    assert made.returncode == 0 and not made.stderr
    assert "phone.key: private" in made.stdout and "--allow_dir" in made.stdout
    pair = read_key(str(tmp_path / "phone.key"), "device")
    assert pair.identity.public not in made.stdout and pair.secret not in made.stdout
    again = make("new", "phone", "--role", "device", "--dir", str(tmp_path))
    assert again.returncode == 1 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1


@pytest.mark.process
def test_a_pair_is_made_in_a_directory_that_the_terminal_cannot_write(tmp_path: Path) -> None:
    """The output has escapes for the name. The same holds if no program reads the output."""
    place = tmp_path / "\u043a\u043b\u044e\u0447\u0438"
    place.mkdir()
    for name, encoding in (("a", "cp1252"), ("b", "ascii")):
        words = ("-m", "llama.keys", "new", name, "--role", "device", "--dir", str(place))
        made = run_main(*words, PYTHONIOENCODING=encoding)
        assert made.returncode == 0 and not made.stderr and "\\u043a" in made.stdout
    assert sorted(path.name for path in place.iterdir()) == ["a.key", "a.pub", "b.key", "b.pub"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["new", "phone"], "the following arguments are required: --role;"),
        (["new", "--role", "device"], "missing NAME; write python -m llama.keys new NAME --role ROLE"),
        (["old", "phone"], "unknown word 'old'; write python -m llama.keys new NAME --role ROLE"),
        (["new", "phone", "--role", "king"], "--role must be one of device, vendor, operator, cloud (got 'king')"),
        (
            ["new", "../phone", "--role", "device"],
            "the name of a key must be 1 to 40 of a-z, 0-9 and - (got '../phone')",
        ),
        (["new", "phone", "tablet", "--role", "device"], "'tablet' belongs to no flag"),
        ([], "the following arguments are required: --name, --role;"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(words: list[str], reported: str) -> None:
    """The exit code is 2, and no file is written."""
    refused = make(*words)
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr.startswith("error: ") and reported in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.process
def test_the_words_are_short_for_flags() -> None:
    """``--help`` shows the flags."""
    assert as_flags(["new", "phone", "--role", "device"]) == ["--name=phone", "--role", "device"]
    assert as_flags(["--help"]) == ["--help"]
    assert make("--help").stdout.startswith("usage: python -m llama.keys new NAME --role ROLE [flags]\n")


@pytest.mark.process
def test_making_keys_needs_no_torch(tmp_path: Path) -> None:
    """A vendor's or an operator's machine need not have torch."""
    code = "import sys, llama.keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "bind", ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://[::]:5555", "tcp://192.0.2.1:5555", "tcp://lo:5555"]
)
def test_without_keys_the_cloud_listens_to_this_machine_only(bind: str) -> None:
    """The provider can lift this with a flag. A host name counts as the addresses that it resolves to."""

    def check(bind: str, **given: bool) -> None:
        check_open_to(bind, endpoints_of(bind), events=EventLog(), **given)

    with pytest.raises(UsageError, match=r"give --key_file and --allow_dir .*or --insecure"):
        check(bind, keys=False, insecure=False)
    check(bind, keys=True, insecure=False)
    check(bind, keys=False, insecure=True)
    for here in ("tcp://127.0.0.1:5555", "tcp://127.8.9.1:*", "tcp://[::1]:5555", "tcp://localhost:5555"):
        check(here, keys=False, insecure=False)
    with pytest.raises(UsageError, match="--insecure and --key_file cannot be combined"):
        CloudConfig(ckpt_dir="cloud", key_file="cloud.key", allow_dir="allowed", insecure=True).check("insecure")


# ---- the programs


@pytest.mark.process
def test_the_programs_speak_with_keys_and_nobody_else_is_answered(
    tiny_split: Splits, keys: Keys, tmp_path: Path
) -> None:
    """A device's reply and sheet list, the page, a vendor's collection.

    Without keys, or with a wrong key, they get nothing.
    """
    half, directory, allowed = tiny_split(), keys.directory, keys.allowed
    phone = keys.make("phone")
    keys.make("insurer", "vendor")
    sheets = written(tmp_path / "sheets", SHEETS)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("The ")
    pinned = ("--cloud_key", str(directory / "cloud.pub"))
    as_phone = ("--key_file", str(directory / "phone.key"), *pinned)
    as_insurer = ("--key_file", str(directory / "insurer.key"), *pinned)
    with cloud(
        half / "cloud",
        "--key_file",
        directory / "cloud.key",
        "--allow_dir",
        allowed,
        "--sheet_dir",
        sheets,
        "--record_file",
        tmp_path / "runs.sqlite",
        "--max_sessions_per_key",
        1,
    ) as running:
        answer = ask(half / "edge", running.address, prompt, "--max_gen_len", 4, *as_phone)
        assert len(answer["tokens"]) == 4
        to_the_cloud = ("edge_main.py", "--ckpt_dir", str(half / "edge"), "--cloud", running.address)
        listed = run_main(*to_the_cloud, "--list_sheets", *as_phone)
        assert "gifts" in listed.stdout and listed.returncode == 0
        to_collect = ("-m", "llama.vendor", "--cloud", running.address, "--deadline", "2", "--vendor")
        collected = run_main(*to_collect, "insurer", *as_insurer)
        assert (collected.returncode, collected.stdout, collected.stderr) == (0, "", "")
        others = run_main(*to_collect, "florist", *as_insurer)
        assert others.returncode == 1 and "(not_allowed): these are another vendor's deliveries" in others.stderr
        silence = run_main(*to_collect, "insurer")
        assert silence.returncode == 1 and "no answer from" in silence.stderr
        wrong_role = run_main(*to_collect, "insurer", *as_phone)
        assert wrong_role.returncode == 1 and "role device, and vendor is needed" in wrong_role.stderr
        halfway = run_main(*to_the_cloud, "--prompt_file", str(prompt), *pinned)
        assert halfway.returncode == 2 and "--cloud_key requires --key_file" in halfway.stderr
        page = controller_of(device_of(half / "edge"), running.address, tokens=4, keys=phone)
        try:
            page.start()
            wait_until(lambda: page.state()["cloud"]["state"] == "here" and page.state()["sheets"])
            page.look_at("plain")
            page.begin("plain", agree=True)
            wait_until(lambda: page.state()["run"]["phase"] in ("done", "failed", "stopped"))
            assert page.state()["run"]["phase"] == "done"
        finally:
            page.close()
        said = running.output()
    for key in (phone.own.identity.public, phone.own.secret, phone.cloud.public):
        assert key not in said


@pytest.mark.process
def test_a_vendor_that_follows_a_cloud_is_told_to_look_at_the_keys(served: Served, keys: Keys) -> None:
    """The error appears once, however long the cloud rejects the key. The program never says that it gives up."""
    keys.make("insurer", "vendor", listed=False)
    directory = keys.directory
    with Process(
        "-m",
        "llama.vendor",
        "--cloud",
        served.endpoint,
        "--vendor",
        "insurer",
        "--follow",
        "--acknowledge",
        "--deadline",
        "0.5",
        "--interval",
        "0.1",
        "--key_file",
        str(directory / "insurer.key"),
        "--cloud_key",
        str(directory / "cloud.pub"),
    ) as program:
        program.line_with("no answer")
        time.sleep(1.5)  # several deadlines
        keys.list("insurer")
        program.line_with("error: the cloud refused (not_served): this cloud keeps no deliveries")
        assert program.ended() == 1
    check = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
    silence = f"vendor: no answer from {served.endpoint}; trying until one comes; check {check}\n"
    assert program.stderr.startswith(silence) and program.stderr.count("\n") == 2


@pytest.mark.process
def test_a_cloud_that_may_not_listen_there_says_why_in_one_line(tiny_split: Splits, keys: Keys) -> None:
    """Without keys all networks are refused. With keys, an address of another machine is refused."""
    cloud_main = ("cloud_main.py", "--ckpt_dir", str(tiny_split() / "cloud"), "--bind")
    own = str(keys.directory / "cloud.key")
    for flags, code, reported in (
        (
            ("tcp://0.0.0.0:5555",),
            2,
            "is open to a network, and the cloud has no keys; give --key_file and --allow_dir",
        ),
        (("tcp://192.0.2.1:5555", "--insecure"), 1, "no such network address on this machine; --bind tcp://0.0.0.0"),
        (("tcp://127.0.0.1:*", "--key_file", own), 2, "--key_file requires --allow_dir"),
        (
            ("tcp://127.0.0.1:*", "--max_sessions_per_key", "2"),
            2,
            "--max_sessions_per_key requires --key_file and --allow_dir",
        ),
        (("tcp://127.0.0.1:*", "--key_file", own, "--allow_dir", own), 1, "cannot be read (Not a directory)"),
    ):
        ended = run_main(*cloud_main, *flags)
        assert ended.returncode == code and not ended.stdout
        *notices, error = ended.stderr.splitlines()
        assert error.startswith("error: ") and reported in error
        assert len(notices) == ("--insecure" in flags)
