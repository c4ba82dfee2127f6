"""Claims about what the page is sent and may ask for, without a browser; a real cloud, a real edge half."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from llama.edge.device import Device
from llama.edge.generation import _ReplyBuilder
from llama.edge.session import CloudSession
from llama.edge.web.app import application
from llama.edge.web.controller import WebController
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import REMEMBERED_EVENTS, EventStream
from llama.errors import ProfileError, PromptError
from llama.wire import Final
from tests.pages import controller_of, device_of
from tests.processes import Cloud, cloud, wait_until
from tests.support import written

pytestmark = pytest.mark.process

Splits = Callable[..., Path]
SHEETS = {
    "system.txt": "Be kind.",
    "gifts.toml": 'title = "Gifts"\nasks_for = ["name", "interests", "age"]\nquestions = ["For {name}. {interests}"]',
    "insurer/cover.toml": 'title = "Cover"\nasks_for = ["trip"]\nquestions = ["Trip: {trip}"]',
}
PROFILE = 'name = "Wirya Kusumo"\ninterests = "tea, and Wirya likes it strong"\nage = 34\nphone = "0812-3456-7890"\n'


@pytest.fixture(scope="module")
def sheet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sheets"), SHEETS)


@pytest.fixture(scope="module")
def running(tiny_split: Splits, sheet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    record = tmp_path_factory.mktemp("record") / "runs.sqlite"
    with cloud(tiny_split() / "cloud", "--sheet_dir", sheet_dir, "--record_file", record) as running:
        running.record = record  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def device(tiny_split: Splits) -> Device:
    return device_of(tiny_split() / "edge")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(PROFILE)
    return path


@contextmanager
def controller_at(
    device: Device,
    address: str,
    profile: Path | None,
    *,
    tokens: int = 8,
    sheet_dir: Path | None = None,
    deadline_s: float = 5.0,
) -> Iterator[WebController]:
    controller = controller_of(
        device, address, profile=profile, tokens=tokens, sheet_dir=sheet_dir, deadline_s=deadline_s
    )
    try:
        yield controller
    finally:
        controller.close()


@pytest.fixture
def controller(device: Device, running: Cloud, profile: Path) -> Iterator[WebController]:
    with controller_at(device, running.address, profile) as controller:
        yield controller


def events_of(controller: WebController, after: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in controller.events.since(after)]


def end_of(controller: WebController) -> dict[str, Any]:
    """The event that ended the run."""
    ends = ("done", "failed", "stopped")
    assert wait_until(lambda: any(e["type"] in ends for e in events_of(controller)))
    return next(e for e in events_of(controller) if e["type"] in ends)


def runs_kept(running: Cloud) -> int:
    with closing(sqlite3.connect(running.record)) as db:  # type: ignore[attr-defined]
        (count,) = db.execute("SELECT count(*) FROM runs").fetchone()
    return int(count)


def test_a_sheet_is_shown_with_what_becomes_of_every_field(controller: WebController) -> None:
    """A tag, as written less its secrets, coarser, missing, kept; the prompt holds what is said to be sent."""
    seen = controller.look_at("gifts")
    outcomes = {each["name"]: (each["outcome"], each["sent_as"]) for each in seen["fields"]}
    assert outcomes == {
        "name": ("tag", "[NAME_1]"),
        "interests": ("sent", "tea, and [NAME_1] likes it strong"),
        "age": ("generalised", "30–39 years"),
        "phone": ("kept", ""),
    }
    text = "\n".join(each["content"] for each in seen["prompt"])
    assert all(sent in text for _, sent in outcomes.values()) and "Wirya" not in text and "0812" not in text
    assert seen["tags"] == {"[NAME_1]": "Wirya Kusumo"}
    assert (seen["whose"], seen["party"], seen["title"]) == ("the provider", "", "Gifts")
    (trip,) = (each for each in controller.look_at("insurer/cover")["fields"] if each["name"] == "trip")
    assert trip["outcome"] == "missing"
    assert any("insurer gets the reply" in note for note in controller.look_at("insurer/cover")["consent"]["notes"])


def test_nothing_runs_that_was_not_looked_at_and_agreed_to(controller: WebController, running: Cloud) -> None:
    """And once agreed to, it is remembered for this profile."""
    before = runs_kept(running)
    with pytest.raises(Conflict, match="look at the sheet first"):
        controller.begin("gifts", agree=True)
    assert controller.look_at("gifts")["consent"]["needed"]
    with pytest.raises(PermissionError):
        controller.begin("gifts", agree=False)
    assert runs_kept(running) == before and not [e for e in events_of(controller) if e["type"] == "begun"]
    controller.begin("gifts", agree=True)
    assert end_of(controller)["type"] == "done" and runs_kept(running) == before + 1
    assert not controller.look_at("gifts")["consent"]["needed"]


def test_a_run_is_reported_as_it_happens_and_as_a_whole(controller: WebController, device: Device) -> None:
    """Each token with both halves' times; the pieces of text are the reply; the snapshot says what the events said."""
    seen = controller.look_at("gifts")["seen"]
    controller.begin("gifts", agree=True)
    done = end_of(controller)["reply"]
    events = events_of(controller)
    iterations = [e for e in events if e["type"] == "iteration" and e["token_id"] is not None]
    assert [e["index"] for e in iterations] == list(range(8))
    for e in iterations:
        assert len(e["device"]["layers_us"]) == 1 and len(e["cloud"]["layers_us"]) == 3
        assert e["bytes"] > e["rows"] * e["dim"] * 4
    assert "".join(e["text"] for e in events if e["type"] == "text") == done["text"]
    tokens = [e["token_id"] for e in iterations]
    assert device.tokenizer.decode(tokens) == "".join(e["token"] for e in iterations) or "\ufffd" in done["text_sent"]
    assert controller.state()["run"] | {"iteration": None} == {
        "id": controller.state()["run"]["id"], "prompt_id": "gifts", "seen": seen, "phase": "done", "prefill": None,
        "text": done["text"], "iteration": None, "done": done, "error": None,
    }  # fmt: skip
    kinds = {row["kind"] for row in done["views"]}
    assert {"profile, raw", "sanitised prompt", "reply with tags"} <= kinds
    assert "reply, restored" not in kinds  # without a tag in it, it is what the provider has, too
    provider = {row["kind"]: row["cells"][1] for row in done["views"]}
    assert not provider["profile, raw"]["holds"] and provider["profile, raw"]["content"] == ""


def test_a_stopped_run_is_never_finished(device: Device, running: Cloud, profile: Path) -> None:
    """So nobody has a copy; and the next one may begin."""
    before = runs_kept(running)
    with controller_at(device, running.address, profile, tokens=1000) as controller:
        controller.look_at("gifts")
        controller.begin("gifts", agree=True)
        with pytest.raises(Conflict, match="under way"):
            controller.begin("gifts", agree=True)
        assert wait_until(lambda: any(e["type"] == "text" for e in events_of(controller)))
        controller.stop()
        assert end_of(controller)["type"] == "stopped"
        assert controller.state()["run"]["phase"] == "stopped"
        assert runs_kept(running) == before
        controller.begin("gifts", agree=False)


def test_a_run_that_is_being_finished_is_not_called_stopped(
    device: Device, running: Cloud, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy may be with the third party already; a stop before that moment leaves nothing there."""
    finish, run_finish = CloudSession.finish, _ReplyBuilder.finish
    for late in (True, False):
        before = runs_kept(running)
        with controller_at(device, running.address, profile) as controller:

            def stopped_meanwhile(session: CloudSession, end: int, controller: WebController = controller) -> Final:
                controller.stop()
                return finish(session, end)

            def stopped_before(run: _ReplyBuilder, controller: WebController = controller) -> Final:
                controller.stop()
                return run_finish(run)

            with monkeypatch.context() as patch:
                if late:
                    patch.setattr(CloudSession, "finish", stopped_meanwhile)
                else:
                    patch.setattr(_ReplyBuilder, "finish", stopped_before)
                controller.look_at("gifts")
                controller.begin("gifts", agree=True)
                assert end_of(controller)["type"] == ("done" if late else "stopped")
        assert runs_kept(running) == before + late


def test_a_cloud_that_is_away_ends_a_run_with_words(device: Device, profile: Path, sheet_dir: Path) -> None:
    """After the deadline, with where it was looked for; stopping does not wait for that."""
    for stop in (False, True):
        with controller_at(
            device, "tcp://127.0.0.1:9", profile, sheet_dir=sheet_dir, deadline_s=30.0 if stop else 1.0
        ) as controller:
            controller.look_at("gifts")
            controller.begin("gifts", agree=True)
            assert wait_until(lambda: controller.state()["cloud"]["state"] == "away")
            if stop:
                controller.stop()
            end = end_of(controller)
            assert end["type"] == ("stopped" if stop else "failed")
            assert stop or "no answer from tcp://127.0.0.1:9" in end["error"]


def test_what_runs_is_what_was_seen(controller: WebController, profile: Path) -> None:
    """A profile that was changed behind the page's back must be looked at again."""
    controller.look_at("gifts")
    profile.write_text(PROFILE + 'budget = "Rp 1"\n')
    with pytest.raises(Conflict, match="profile has changed"):
        controller.begin("gifts", agree=True)
    controller.look_at("gifts")
    controller.begin("gifts", agree=True)
    sent = {row["kind"]: row["cells"][1]["content"] for row in end_of(controller)["reply"]["views"]}["sanitised prompt"]
    assert sent == controller.look_at("gifts")["prompt"][-1]["content"]


def test_what_one_tab_saw_is_not_run_as_what_another_saw(device: Device, profile: Path, tmp_path: Path) -> None:
    """A sheet that changes between two looks must be looked at again by who saw the first."""
    sheet_dir = written(tmp_path, {"sheets/gifts.toml": SHEETS["gifts.toml"]}) / "sheets"
    with controller_at(device, "tcp://127.0.0.1:9", profile, sheet_dir=sheet_dir) as controller:
        first = controller.look_at("gifts")["seen"]
        assert controller.look_at("gifts")["seen"] == first
        (sheet_dir / "gifts.toml").write_text(SHEETS["gifts.toml"].replace("For {name}", "Call {name}"))
        second = controller.look_at("gifts")["seen"]
        with pytest.raises(Conflict, match="sheet has changed"):
            controller.begin("gifts", True, first)
        assert controller.state()["run"] is None
        controller.begin("gifts", True, second)


def test_a_profile_is_replaced_as_a_whole_or_not_at_all(controller: WebController, profile: Path) -> None:
    """Bad TOML, a bad field and a file that somebody else has changed leave it as it is; the place is named."""
    text, version = controller.profile_text()
    assert text == PROFILE
    for bad, said in (("name = ", "not valid TOML"), ("Name = 1", "field's name"), ("a = {}", "must be text")):
        with pytest.raises(ProfileError, match=said):
            controller.write_profile(bad, version)
    assert profile.read_text() == PROFILE
    newer = controller.write_profile(PROFILE.replace("Wirya", "Mei"), version)
    assert profile.read_text() == PROFILE.replace("Wirya", "Mei") and profile.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="changed since you opened it"):
        controller.write_profile(PROFILE, version)
    assert controller.profile_text()[1] == newer
    assert [path.name for path in profile.parent.iterdir()] == ["profile.toml"]
    assert any(e["type"] == "profile" for e in events_of(controller))


def test_a_profile_that_was_deleted_or_damaged_can_be_mended(controller: WebController, profile: Path) -> None:
    """What is refused as a profile is still text that may be edited; too large a one never gets there."""
    _, version = controller.profile_text()
    for large in ('a = "' + "é" * 700_000 + '"', "#" * (1 << 20) + "\n"):
        with pytest.raises(ProfileError, match="larger than 1 MiB"):
            controller.write_profile(large, version)
    profile.write_bytes(b"\xff not TOML")
    with pytest.raises(ProfileError):
        controller.state()
    controller.write_profile(PROFILE, controller.profile_text()[1])
    profile.unlink()
    assert controller.profile_text() == ("", "absent")
    controller.write_profile(PROFILE, "absent")
    assert controller.state()["profile"] is not None


def test_a_pipe_is_no_profile(device: Device, tmp_path: Path) -> None:
    """It would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(ProfileError, match="not a regular file"),
        controller_at(device, "tcp://127.0.0.1:9", tmp_path / "pipe"),
    ):
        pass


def test_without_a_profile_the_page_still_works(device: Device, running: Cloud) -> None:
    """Nothing is asked, since nothing would leave."""
    with controller_at(device, running.address, None) as controller:
        assert controller.state()["profile"] is None
        assert not controller.look_at("gifts")["consent"]["needed"]
        with pytest.raises(ProfileError, match="--profile_file"):
            controller.profile_text()
        controller.begin("gifts", agree=False)
        assert end_of(controller)["type"] == "done"


def test_a_sheet_that_is_not_there_is_an_error(device: Device, running: Cloud, profile: Path, sheet_dir: Path) -> None:
    with controller_at(device, running.address, profile, sheet_dir=sheet_dir) as controller:
        with pytest.raises(PromptError, match="has no sheet nothing; it has gifts, insurer/cover"):
            controller.look_at("nothing")


def test_events_are_bounded_and_who_is_too_far_behind_begins_anew() -> None:
    """Also a page of an earlier start of the program, which knows higher numbers."""
    events = EventStream()
    woken = list[int]()
    events.subscribe(wake := lambda: woken.append(1))
    for i in range(REMEMBERED_EVENTS + 10):
        events.add("notice", text=str(i))
    events.unsubscribe(wake)
    assert len(woken) == REMEMBERED_EVENTS + 10
    assert [n for n, _ in events.since(events.last - 2)] == [events.last - 1, events.last]
    assert events.since(events.last) == []
    for behind in (0, 5, events.last + 1):
        ((n, line),) = events.since(behind)
        assert (n, json.loads(line)["type"]) == (events.last, "reset")


# ---- who is let in


TOKEN = "t0ken"


@pytest.fixture(scope="module")
def address(device: Device, running: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    profile = tmp_path_factory.mktemp("profile") / "profile.toml"
    profile.write_text(PROFILE)
    with controller_at(device, running.address, profile) as controller, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(application(controller, port, TOKEN), log_config=None, lifespan="off", ws="none")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def status_of(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as err:
        return err.code, err.read().decode()


APIS = [
    ("GET", "/api/state"), ("POST", "/api/sheet"), ("POST", "/api/private_words"), ("GET", "/api/profile"),
    ("GET", "/api/events"), ("POST", "/api/run"), ("POST", "/api/stop"), ("PUT", "/api/profile"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), APIS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Token": "wrong"},
        {"X_Token": ""},
        {"X_Token": TOKEN, "Origin": "http://evil.example"},
        {"X_Token": TOKEN, "Origin": "null"},
        {"X_Token": TOKEN, "Host": "evil.example"},
        {"X_Token": TOKEN, "Host": "127.0.0.1"},
        {"X_Token": TOKEN, "Sec_Fetch_Site": "cross-site"},
        {"X_Token": TOKEN, "Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_who_is_not_the_page_is_refused(address: str, method: str, path: str, headers: dict[str, str]) -> None:
    """No token, a wrong one, another origin, another name for this machine; nothing of the person is in the answer."""
    status, body = status_of(address + path, method, b"{}" if method != "GET" else None, **headers)
    assert status == 403 and "Wirya" not in body and TOKEN not in body


def test_the_page_itself_holds_nothing_of_the_person_and_may_load_nothing_else(address: str) -> None:
    """Its policy allows this server and no other; it cannot be framed, cached or sniffed."""
    for name in ("/", "/page.css", "/page.js", "/icon.svg"):
        with urllib.request.urlopen(address + name) as reply:
            text, headers = reply.read().decode(), reply.headers
        assert "Wirya" not in text and TOKEN not in text
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
    assert status_of(address + "/page.js", Host="evil.example")[0] == 403
    for name in ("/nothing", "/app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/static/../../app.py"):
        assert status_of(address + name)[0] == 404, name


def test_odd_bodies_are_refused_and_not_quoted(address: str) -> None:
    """Not JSON, unknown fields, too large, a profile that is none."""
    for body, status in (
        (b"Wirya", 400), (b'{"prompt_id": 1}', 400), (b'{"prompt_id": "gifts", "seen": "", "more": 1}', 400),
        (b"[" * 100_000, 400), (b"x" * (3 << 20), 413),
    ):  # fmt: skip
        code, said = status_of(address + "/api/run", "POST", body, X_Token=TOKEN)
        assert code == status and "Wirya" not in said
    version = json.loads(status_of(address + "/api/profile", X_Token=TOKEN)[1])["version"]
    edited = json.dumps({"text": 'name = "Wirya', "version": version}).encode()
    code, said = status_of(address + "/api/profile", "PUT", edited, X_Token=TOKEN)
    assert code == 422 and "not valid TOML" in said and "Wirya" not in said
