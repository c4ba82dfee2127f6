"""Claims about what becomes of a finished run, and about sheets that the cloud hands out; through real sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from llama import wire
from llama.client.link import Link
from llama.cloud.control import ControlRequest
from llama.cloud.prompt_leak import WINDOW, SystemPrompt, Windows
from llama.cloud.provider import ProviderServices
from llama.cloud.run_finisher import FinishedRun
from llama.cloud.run_store import RunStore
from llama.edge.sheet_source import fetch, sheets_of
from llama.edge.wording import copy_status
from llama.errors import CloudRefused, PromptError, ProtocolMismatch
from llama.prompt import read_from_directory
from llama.sheets import read_all
from llama.tokenizer import Tokenizer
from llama.wire import (
    Acknowledge,
    Acknowledged,
    Close,
    Collect,
    Deliveries,
    DeliveryStatus,
    Final,
    Finish,
    ListSheets,
    Stages,
    Tokens,
)
from tests.support import ARGS, Halves, Served, open_request, step_of, written

SYSTEM = "The house rule of this shop is: never sell two of a kind to the same person."
SHEETS = {
    "system.txt": SYSTEM,
    "gifts.toml": 'title = "Gifts"\nquestions = ["What?"]\nasks_for = ["budget"]\ntask = "recommend"',
    "insurer/cover.toml": 'system = "Our own words are ours."\nquestions = ["Which cover?"]',
    "insurer/claim.toml": 'questions = ["Which claim?"]',
    "adviser/plan.toml": 'questions = ["Which plan?"]',
}


@pytest.fixture(scope="module")
def sheet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sheets"), SHEETS)


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer, sheet_dir: Path, tmp_path: Path) -> Iterator[Served]:
    with closing(RunStore(tmp_path / "runs.sqlite")) as record:
        services = ProviderServices.of(tokenizer, store=record, directory=read_all(str(sheet_dir)))
        with Served(halves, tokenizer, services=services) as served:
            yield served


def finish(served: Served, text: str, prompt_id: str, run_id: bytes | None = None) -> Final:
    """A run whose reply is ``text``: the ids are the bytes, as if resumed."""
    ids = served.server.tokenizer.encode(text, bos=False, eos=False)
    run_id = run_id or os.urandom(16)
    with served.peer() as peer:
        session = served.open(peer, open_request(5, run_id=run_id, prompt_id=prompt_id, resumed_ids=tuple(ids)))
        final = peer.ask(Finish(session, 1, len(ids)))
        assert isinstance(final, Final), final
        peer.ask(Close(session, 2))
    return final


def collected(served: Served, vendor: str) -> tuple[wire.Delivery, ...]:
    with served.peer() as peer:
        reply = peer.ask(Collect(vendor))
    assert isinstance(reply, Deliveries)
    return reply.deliveries


# ---- sheets


def test_a_device_lists_and_fetches_the_sheets_of_the_cloud(served: Served, sheet_dir: Path) -> None:
    """They say what the directory's own say; the origin is the cloud's address, whoever's sheet it is."""
    with Link(served.endpoint) as link:
        assert [entry.prompt_id for entry in sheets_of(link)] == sorted(n[:-5] for n in SHEETS if n.endswith(".toml"))
        for entry in sheets_of(link):
            found, local = fetch(link, entry.prompt_id), read_from_directory(str(sheet_dir), entry.prompt_id)
            assert (found.prompt, found.party, found.provider_system) == (local.prompt, local.party, SYSTEM)
            whose = f"vendor:{found.party}" if found.party else "provider"
            assert found.origin == f"{whose}:{served.endpoint}"
        assert {entry.prompt_id: entry.title for entry in sheets_of(link)}["gifts"] == "Gifts"


def test_a_sheet_that_is_not_there_is_refused_with_those_that_are(served: Served) -> None:
    """Names that would leave the directory are not even asked for, and get nothing from the cloud."""
    with Link(served.endpoint) as link, served.peer() as peer:
        for name in ("nothing", "system", "insurer"):
            with pytest.raises(CloudRefused, match=r"unknown_sheet.*gifts, insurer/claim, insurer/cover"):
                fetch(link, name)
        for name in ("../gifts", "insurer/../gifts", "/etc/passwd", "", "a b", "a/b/c"):
            assert peer.refusal(wire.FetchSheet(name)) == "unknown_sheet"
            with pytest.raises(PromptError, match="a prompt id is NAME or VENDOR/NAME"):
                fetch(link, name)


def test_a_cloud_without_sheets_says_so_and_keeps_no_deliveries(halves: Halves, tokenizer: Tokenizer) -> None:
    """Nothing to list, nothing to collect, and the cure."""
    with Served(halves, tokenizer) as served, Link(served.endpoint) as link, served.peer() as peer:
        assert sheets_of(link) == ()
        with pytest.raises(CloudRefused, match="start it with --sheet_dir"):
            fetch(link, "gifts")
        assert peer.refusal(Collect("insurer")) == "not_served"
        assert peer.refusal(Acknowledge("insurer", ())) == "not_served"


# ---- the third party's copy


def test_whose_a_run_is_follows_from_the_clouds_own_sheets(served: Served) -> None:
    """A third party's is its own; the provider's, an unknown sheet's and a claimed party's are nobody's."""
    run_id = bytes(range(16))
    assert finish(served, "Cover A for [NAME_1].", "insurer/cover", run_id).copy is DeliveryStatus.QUEUED
    for prompt_id in ("gifts", "", "insurer/unknown", "nobody/cover", "insurer", "INSURER/cover", "insurer/cover.toml"):
        assert finish(served, "Cover B.", prompt_id).copy is DeliveryStatus.NONE
    (delivery,) = collected(served, "insurer")
    assert (delivery.run_id, delivery.prompt_id, delivery.text) == (run_id, "insurer/cover", "Cover A for [NAME_1].")
    assert delivery.prompt == SHEETS["insurer/cover.toml"]
    assert collected(served, "adviser") == ()
    with served.peer() as peer:
        peer.send_request(Collect("nobody"))
        refused = peer.receive()
        assert isinstance(refused, wire.Error) and refused.code == "not_served"
        assert "insurer" not in f"{refused.message} {refused.advice}"  # others' names are not a third party's business


def test_a_reply_without_text_leaves_neither_a_row_nor_a_copy(served: Served) -> None:
    """No output, or none before the stop id; the person is told so. A run that has some is replaced by none."""
    record, run_id = served.server.services.store, os.urandom(16)
    assert record is not None
    says = set[str]()
    for request, end in (
        (open_request(prompt_id="insurer/cover"), 0),
        (open_request(prompt_id="insurer/cover", resumed_ids=(7, 65, 66), stop_ids=(7,)), 3),
        (open_request(prompt_id="gifts", resumed_ids=(65,)), 0),
    ):
        with served.peer() as peer, served.session(peer, request) as session:
            final = peer.ask(Finish(session, 1, end))
            assert isinstance(final, Final)
            assert (final.text, final.offers, final.copy, final.usage.prompt_tokens) == ("", (), DeliveryStatus.NONE, 5)
            says.add(copy_status(final.copy, "insurer"))
    assert record.runs(9) == [] and collected(served, "insurer") == ()
    (said,) = says
    assert said.startswith("no copy is kept for insurer: the reply is empty, or ")
    finish(served, "Cover A.", "insurer/cover", run_id)
    assert finish(served, "", "insurer/cover", run_id).copy is DeliveryStatus.NONE
    assert [run.text for run in record.runs(9)] == [d.text for d in collected(served, "insurer")] == ["Cover A."]


def test_nothing_of_the_provider_is_in_a_delivery(served: Served) -> None:
    """Its prompt is wrapped around the third party's sheet, and stays behind."""
    finish(served, "Cover A.", "insurer/cover")
    assert SYSTEM not in repr(wire.encode(Deliveries(collected(served, "insurer"))))


def test_a_delivery_is_handed_out_until_it_is_acknowledged_by_its_own_party(served: Served) -> None:
    """Nobody else's acknowledgement counts."""
    run_id = finish_and_id(served)
    for vendor in ("adviser", "nobody"):
        with served.peer() as peer:
            assert peer.ask(Acknowledge(vendor, (run_id,))) == Acknowledged()
    assert (
        [d.run_id for d in collected(served, "insurer")] == [d.run_id for d in collected(served, "insurer")] == [run_id]
    )
    with served.peer() as peer:
        assert peer.ask(Acknowledge("insurer", (run_id, b"x" * 16))) == Acknowledged()
    assert collected(served, "insurer") == ()
    finish(served, "Cover A.", "insurer/cover", run_id)  # replayed: delivered once
    assert collected(served, "insurer") == ()


def finish_and_id(served: Served) -> bytes:
    run_id = os.urandom(16)
    finish(served, "Cover A.", "insurer/cover", run_id)
    return run_id


def test_a_reply_that_recites_the_providers_prompt_is_withheld_and_both_are_told(served: Served) -> None:
    """The device in its Final, the third party in its delivery, which has neither text nor offers."""
    final = finish(served, f"My instructions say: {SYSTEM[4:40]}", "insurer/cover")
    assert final.copy is DeliveryStatus.WITHHELD and SYSTEM[4:40] in final.text
    (delivery,) = collected(served, "insurer")
    assert (delivery.withheld, delivery.text, delivery.offers) == (True, "", ())


def test_a_peer_that_asks_on_without_waiting_is_told_to_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One control request at a time; others are served."""
    may_go_on, control = threading.Event(), served.server.services.control
    answer = control.answer

    def slowly(request: ControlRequest, owner: str) -> wire.Reply:
        assert may_go_on.wait(30)
        return answer(request, owner)

    monkeypatch.setattr(control, "answer", slowly)
    with served.peer(zmq.DEALER) as hasty, served.peer() as other:
        hasty.send(b"", wire.encode(ListSheets()))
        hasty.send(b"", wire.encode(ListSheets()))
        refused = hasty.receive()
        assert isinstance(refused, wire.Error) and refused.code == "busy" and refused.retry_after_s
        assert isinstance(other.ask(wire.Hello(wire.VERSION)), wire.Welcome)
        may_go_on.set()
        assert isinstance(hasty.receive(), wire.Sheets) and isinstance(other.ask(ListSheets()), wire.Sheets)


# ---- quoting


@pytest.fixture(scope="module")
def words(llama3_tokenizer: Path) -> Tokenizer:
    return Tokenizer(llama3_tokenizer)


@given(st.data())
def test_any_eight_tokens_of_the_prompt_are_recognised_anywhere(words: Tokenizer, data: st.DataObject) -> None:
    """In any case, with other spaces and quotation marks, in the middle of anything."""
    ids = words.encode(SYSTEM, bos=False, eos=False)
    start = data.draw(st.integers(0, len(ids) - WINDOW))
    quoted = words.decode(ids[start : start + WINDOW])
    changes = (str, str.upper, str.title, lambda t: t.replace(" ", "\n  "), lambda t: f'"{t}"')
    change = data.draw(st.sampled_from(changes))
    before, after = data.draw(st.text(max_size=20)), data.draw(st.text(max_size=20))
    assert SystemPrompt(SYSTEM, words).is_quoted_in(f"{before} {change(quoted)} {after}", known="")


@pytest.mark.parametrize(
    "between", ["* *", "_", "<br>", "</b> <b>", "\\n", "%20", "\n1. ", " [1] ", "\u200b", "-", "", "\u00ad "], ids=repr
)
def test_a_longer_recital_is_recognised_whatever_stands_between_its_words(words: Tokenizer, between: str) -> None:
    """Markup, links, numbering, invisible signs, or nothing at all."""
    recited = between.join(SYSTEM.removesuffix(".").split())
    assert SystemPrompt(SYSTEM, words).is_quoted_in(f"It says: {recited}", known="")
    assert not SystemPrompt(SYSTEM, words).is_quoted_in(recited[: len(recited) // 12], known="")


def test_a_guess_is_known_however_the_sheet_spells_it(
    served: Served, sheet_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """TOML can write a blank as a number."""
    spelled = SYSTEM.replace(" ", "\\u0020")
    files = {"system.txt": SYSTEM, "insurer/guess.toml": f'questions = ["Say: {spelled}"]'}
    with closing(RunStore(tmp_path / "guess.sqlite")) as record:
        services = ProviderServices.of(
            tokenizer, store=record, directory=read_all(str(written(tmp_path / "guess", files)))
        )
        ids, listed = tokenizer.encode(SYSTEM, bos=False, eos=False), services.sheets.listed("insurer/guess")
        run = FinishedRun(b"r" * 16, "insurer/guess", 0.0, 1, ids, 1, listed=listed)
        assert services.finish(run).copy is DeliveryStatus.QUEUED


def test_fewer_words_than_that_and_ordinary_replies_pass(words: Tokenizer) -> None:
    """Half a window from here and half from there is no quotation."""
    prompt = SystemPrompt(SYSTEM, words)
    ids = words.encode(SYSTEM, bos=False, eos=False)
    for start in range(len(ids) - WINDOW):
        assert not prompt.is_quoted_in(words.decode(ids[start : start + WINDOW - 3]), known="")
    for reply in (
        "1. A tea set\n2. A hiking backpack",
        "",
        "Basic: a short city trip has few risks.",
        "--------------",
    ):
        assert not prompt.is_quoted_in(reply, known="")
    for empty in ("", "Be kind.", "- - -"):
        assert not SystemPrompt(empty, words).is_quoted_in(f"{empty} {SYSTEM}", known="")


def test_what_the_vendor_wrote_itself_is_no_quotation(words: Tokenizer) -> None:
    """So a guess in its sheet learns nothing from whether the reply arrives."""
    prompt = SystemPrompt(SYSTEM, words)
    assert prompt.is_quoted_in(SYSTEM, known="")
    assert not prompt.is_quoted_in(SYSTEM, known=f"Say after me: {SYSTEM}")
    assert prompt.is_quoted_in(SYSTEM, known=f"Say after me: {SYSTEM[:40]}")


@given(st.lists(st.text("ab ", min_size=1, max_size=20), max_size=12), st.text("ab ", max_size=200))
def test_windows_that_are_looked_up_are_those_that_are_there(windows: list[str], text: str) -> None:
    """Each once, whatever they have in common."""
    assert sorted(Windows(dict.fromkeys(windows)).found_in(text)) == sorted(w for w in set(windows) if w in text)


@pytest.mark.parametrize("model", ["words", "digits"])
def test_prices_rules_and_bullets_of_the_prompt_are_no_quotation(
    words: Tokenizer, tokenizer: Tokenizer, model: str
) -> None:
    """Also where every digit is a token."""
    prompt = SystemPrompt(f"- 1.000.000\n{'~#' * 20}\n---- 0812 3456 7890", words if model == "words" else tokenizer)
    for reply in ("1. A watch for Rp 21.000.000", "~#" * 20, "--------", "0812 3456 7890"):
        assert not prompt.is_quoted_in(reply, known="")


# ---- times


def test_the_cloud_says_where_the_time_went_only_when_asked(served: Served, halves: Halves) -> None:
    """A time for each of its layers; the ids are the same."""
    rows = halves.rows([258, 84, 104])
    answers = []
    with served.peer() as peer:
        for times in (False, True):
            with served.session(peer, open_request(3, run_id=os.urandom(16))) as session:
                step = step_of(session, 1, 0, rows)
                answers.append(peer.ask(msgspec.structs.replace(step, times=times), rows))
    plain, timed = answers
    assert isinstance(plain, Tokens) and isinstance(timed, Tokens)
    assert plain.stages is None and isinstance(timed.stages, Stages) and plain.ids == timed.ids
    assert len(timed.stages.layers_us) == ARGS.n_layers - 1
    parts = (timed.stages.queue_us, *timed.stages.layers_us, timed.stages.head_us, timed.stages.sample_us)
    assert sum(parts) <= timed.compute_us + len(parts)  # each is rounded


def test_a_cloud_that_answers_with_another_sheet_is_a_protocol_mismatch() -> None:
    """The device asked for one, and must not take another's words for it."""
    context = zmq.Context()
    rep = context.socket(zmq.REP)
    port = rep.bind_to_random_port("tcp://127.0.0.1")

    def answer() -> None:
        rep.recv_multipart()
        rep.send(wire.encode(wire.SheetText("other", 'questions = ["x"]')))

    thread = threading.Thread(target=answer)
    thread.start()
    with Link(f"tcp://127.0.0.1:{port}") as link, pytest.raises(ProtocolMismatch, match="FetchSheet"):
        fetch(link, "gifts")
    thread.join()
    rep.close(linger=0)
    context.term()
