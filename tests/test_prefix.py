"""What many prompts begin with is computed once, named by a digest, and changes nothing but how much is sent."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama import wire
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.prefix_cache import choose_prefixes, prefixes_of
from llama.edge.generation import GeneratedReply, GenerationSettings, generate_reply
from llama.privacy.preparing import prepare
from llama.privacy.profile import read_profile
from llama.prompt import read_from_directory, read_prompt
from llama.sampling_params import SamplingParams
from llama.sheets import read_all
from llama.tokenizer import Tokenizer
from llama.wire import Close, Opened, prefix_id
from tests.processes import ROOT, cloud
from tests.support import FINGERPRINT, GREEDY, Halves, Served, open_request, run_main, step_of

SHEETS, PROFILE = ROOT / "examples" / "sheets", ROOT / "examples" / "profile.toml"
SAMPLED = SamplingParams(0.8, 0.9, 7)
PROMPT = [3 * i % 256 for i in range(30)]
SHARED = 21  # of its ids; two steps of 16 rows


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer) -> Iterator[Served]:
    """A cloud that knows how PROMPT begins, and another prefix."""
    with Served(halves, tokenizer, slots=2, prefixes=[[1, 2, 3], PROMPT[:SHARED]]) as running:
        yield running


def ask(
    served: Served, tokenizer: Tokenizer, shared: int = SHARED, sampling: SamplingParams = GREEDY,
    on_text: Callable[[str], None] = lambda text: None,
) -> GeneratedReply:  # fmt: skip
    with Link(served.endpoint, on_notice=print) as link:
        return generate_reply(
            PROMPT, edge=served.halves.edge, link=link, welcome=link.hello(), tokenizer=tokenizer,
            settings=GenerationSettings(sampling, stop_ids=(), max_gen_len=8), shared=shared, on_text=on_text,
        )  # fmt: skip


# ---- in one process


@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, 2**31 - 1), max_size=50))
def test_a_prefixs_name_is_sha256_of_the_fingerprint_and_its_ids(fingerprint: bytes, ids: list[int]) -> None:
    """As the contract spells it out, by another library's idea of four little-endian bytes."""
    assert prefix_id(fingerprint, ids) == hashlib.sha256(fingerprint + struct.pack(f"<{len(ids)}I", *ids)).digest()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_the_cloud_has_computed_before_is_not_sent_and_the_reply_is_the_same(
    served: Served, halves: Halves, tokenizer: Tokenizer, sampling: SamplingParams
) -> None:
    """Ids are those of the halves alone; the rows of the prefix are missing from what was sent."""
    with_it, without = ask(served, tokenizer, SHARED, sampling), ask(served, tokenizer, 0, sampling)
    assert with_it.tokens == without.tokens == halves.tokens(PROMPT, 8, sampling)
    assert (with_it.timing.shared_tokens, without.timing.shared_tokens) == (SHARED, 0)
    saved = without.timing.prompt_sent_bytes - with_it.timing.prompt_sent_bytes
    assert saved > (SHARED - 1) * 64 * 4  # the header that names it is less than a row


def test_an_unknown_prefix_means_that_everything_is_sent(served: Served, halves: Halves, tokenizer: Tokenizer) -> None:
    """One id more or less is another prefix."""
    for shared in (SHARED - 1, SHARED + 1):
        got = ask(served, tokenizer, shared)
        assert got.tokens == halves.tokens(PROMPT, 8) and got.timing.shared_tokens == 0


def test_a_lost_session_begins_with_the_prefix_again(served: Served, halves: Halves, tokenizer: Tokenizer) -> None:
    """It is closed behind the device's back in mid reply."""
    came = list[str]()

    def on_text(text: str) -> None:
        came.append(text)
        if len(came) == 3:
            with served.peer() as other:
                for session in served.server.sessions:
                    assert other.ask(Close(session.id, 1)) == wire.Closed()

    got = ask(served, tokenizer, on_text=on_text)
    assert got.tokens == halves.tokens(PROMPT, 8)
    assert (got.timing.reopened, got.timing.shared_tokens) == (1, SHARED)


def test_an_open_that_is_repeated_says_again_what_is_filled(served: Served) -> None:
    """Its first answer may have been lost."""
    request = open_request(len(PROMPT), prefix=prefix_id(FINGERPRINT, PROMPT[:SHARED]))
    with served.peer() as peer:
        first = peer.ask(request)
        assert isinstance(first, Opened) and first.cached == SHARED
        assert peer.ask(request) == first


def test_a_device_can_write_over_its_own_copy_only(served: Served, halves: Halves, tokenizer: Tokenizer) -> None:
    """It rolls back to position 0 and sends other rows; whoever comes next into the same row gets the true ones."""
    request = open_request(len(PROMPT), prefix=prefix_id(FINGERPRINT, PROMPT[:SHARED]))
    with served.peer() as peer, served.session(peer, request) as session:
        rows = torch.randn(16, 64)
        assert isinstance(peer.ask(step_of(session, 1, 0, rows, 0), rows), wire.Tokens)
        assert ask(served, tokenizer).tokens == halves.tokens(PROMPT, 8)  # in the other row
    for _ in range(2):
        assert ask(served, tokenizer).tokens == halves.tokens(PROMPT, 8)


def test_what_a_prefix_left_in_a_row_is_cleared_with_it(halves: Halves, tokenizer: Tokenizer) -> None:
    """Also where the session never sent a row."""
    request = open_request(len(PROMPT), prefix=prefix_id(FINGERPRINT, PROMPT[:SHARED]))
    with Served(halves, tokenizer, slots=1, prefixes=[PROMPT[:SHARED]]) as served:
        with served.peer() as peer, served.session(peer, request):
            pass
        served.run(PROMPT[:2], 1)  # gets the row when it has been cleared; and is cleared, too, before the end
        with served.peer() as peer:
            served.open(peer, open_request())
    assert not served.cache.keys_values.any()


def test_a_prefix_that_is_the_whole_prompt_is_computed_anew(served: Served) -> None:
    """Its last row is needed for the first id."""
    with served.peer() as peer:
        opened = peer.ask(open_request(SHARED, prefix=prefix_id(FINGERPRINT, PROMPT[:SHARED])))
        assert isinstance(opened, Opened) and opened.cached == 0


CONTEXT = 15
OPENINGS = st.dictionaries(
    st.sampled_from(["", *"abcdef"]),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20).map(tuple), unique=True, max_size=12),
)


@given(OPENINGS, st.integers(0, 100))
def test_only_as_many_are_kept_as_there_is_room_for(prefixes: dict[str, list[tuple[int, ...]]], most: int) -> None:
    """The provider's first ones come first; each is there once, none is longer than a context."""
    fit, every = choose_prefixes(prefixes, CONTEXT, most), {ids for those in prefixes.values() for ids in those}
    assert sum(map(len, fit)) <= most and all(len(ids) < CONTEXT for ids in fit)
    assert set(fit) <= every and len(set(fit)) == len(fit)
    provider = prefixes.get("", [])
    assert fit[: len(set(provider) & set(fit))] == [ids for ids in provider if ids in fit]
    alone = choose_prefixes({"": provider}, CONTEXT, most)
    assert fit[: len(alone)] == alone  # no third party takes anything away from it
    for ids in every - set(fit):
        assert len(ids) >= CONTEXT or len(ids) > most - sum(map(len, fit))


@given(OPENINGS, st.integers(0, 100))
def test_no_vendor_has_a_second_one_while_another_has_none_that_would_have_fitted(
    prefixes: dict[str, list[tuple[int, ...]]], most: int
) -> None:
    """Would have fitted: in what there was when the second one was taken. The same for a third one, and so on."""
    fit, parties = choose_prefixes(prefixes, CONTEXT, most), [party for party in prefixes if party]
    for taken in range(len(fit)):
        room, before, after = most - sum(map(len, fit[:taken])), set(fit[:taken]), set(fit[: taken + 1])
        if fit[taken] in prefixes.get("", []):
            continue
        has = {party: len(before & set(prefixes[party])) for party in parties}
        least_of_the_served = min(has[party] for party in parties if fit[taken] in prefixes[party])
        for other in parties:
            would_fit = [ids for ids in prefixes[other] if ids not in after and len(ids) < CONTEXT and len(ids) <= room]
            assert not would_fit or has[other] >= least_of_the_served, (other, would_fit)


def test_a_vendor_with_97_sheets_of_chosen_lengths_leaves_room_for_all_others() -> None:
    """As long as can be, or such that they fill what is left to the last position; the others have one each."""
    numbers = itertools.count()

    def of_length(length: int) -> tuple[int, ...]:
        return (next(numbers), *range(length - 1))

    for lengths in ([1999] * 97, [2000 - i for i in range(1, 98)], [1 << i for i in range(11)] * 9):
        prefixes = {"": [of_length(100)], "a-hostile-one": [of_length(length) for length in lengths]}
        prefixes |= {f"party-{i}": [of_length(300), of_length(301)] for i in range(8)}
        fit = choose_prefixes(prefixes, 2048, 100 + 8 * 300 + 1)
        assert all(set(prefixes[party]) & set(fit) for party in prefixes if party != "a-hostile-one"), lengths[:3]


@pytest.mark.long
def test_a_thousand_sheets_are_shared_out_within_seconds() -> None:
    """Each of its own third party, with the same long system prompt before it."""
    prefixes = {f"party-{i}": [(*range(1500), i)] for i in range(1000)}
    began = time.monotonic()
    assert len(choose_prefixes(prefixes, 2048, 10**9)) == 1000
    assert time.monotonic() - began < 20


# ---- device and cloud


def test_both_sides_know_how_a_sheets_prompt_begins(smollm2_split: Callable[..., Path], tmp_path: Path) -> None:
    """For each of the example sheets, and a person's own words: the cloud from its directory, the device from what it
    shows; and nothing of the person's is among it."""
    half = read_half(smollm2_split() / "edge", "edge")
    tokenizer, profile, directory = tokenizer_of(half), read_profile(PROFILE), read_all(str(SHEETS))
    chat = chat_format_of(half, tokenizer)
    prefixes, lengths = prefixes_of(directory, chat), set[int]()
    assert set(prefixes) == {"", "insurer", "advertiser"}
    known = [ids for those in prefixes.values() for ids in those]
    own = tmp_path / "own.txt"
    own.write_text("What is a good gift for Sari?")
    prompts = [read_from_directory(str(SHEETS), prompt_id) for prompt_id in directory.sheets] + [read_prompt(str(own))]
    for found in prompts:
        for mode in ("schema", "off"):
            outgoing = prepare(found, profile, mode, chat, tokenizer, half.context_length).outgoing
            assert outgoing.ids[: outgoing.shared] in known
            assert tokenizer.decode(outgoing.ids[: outgoing.shared]).endswith("<|im_end|>\n")
            lengths.add(outgoing.shared)
    assert len(known) == len(lengths) and min(lengths) > 0


@pytest.mark.process
@pytest.mark.parametrize(("ranks", "prompt_id"), [(None, "birthday"), (2, "insurer/travel-cover")])
def test_a_real_cloud_computes_its_sheets_once_and_a_real_device_sends_less(
    tiny_split: Callable[..., Path], ranks: int | None, prompt_id: str
) -> None:
    """The same text as without, on one rank and on two; a third party's sheet is one of them."""
    out, said = tiny_split(ranks=ranks or 1), list[dict[str, object]]()
    flags = ["--sheet_dir", SHEETS, "--record_file", out.parent / f"{ranks}.sqlite", "--kv_cache_gb", 0.1]
    for more in ([], ["--edge_ckpt_dir", out / "edge"]):
        with cloud(out / "cloud", *flags, *more, ranks=ranks) as running:
            assert ("prompt prefixes cached" in running.output()) == bool(more)
            ended = run_main(
                "edge_main.py", "--ckpt_dir", str(out / "edge"), "--cloud", running.address, "--prompt_id", prompt_id,
                "--profile_file", str(PROFILE), "--yes", "--json", "--temperature", "0", "--max_gen_len", "12",
            )  # fmt: skip
            assert ended.returncode == 0, ended.stderr
            said.append(json.loads(ended.stdout))
    without, with_it = said
    assert with_it["text_sent"] == without["text_sent"]
    before, after = without["timing"], with_it["timing"]
    assert isinstance(before, dict) and isinstance(after, dict)
    assert before["shared_tokens"] == 0 < after["shared_tokens"] < after["prompt_tokens"]
    assert after["prompt_sent_bytes"] < before["prompt_sent_bytes"] - 200 * after["shared_tokens"]


@pytest.mark.process
def test_a_small_budget_keeps_what_fits_and_says_so(tiny_split: Callable[..., Path]) -> None:
    """Sessions come first: they need room for at least one."""
    out = tiny_split()
    flags = ["--sheet_dir", SHEETS, "--record_file", out.parent / "small.sqlite", "--edge_ckpt_dir", out / "edge"]
    with cloud(out / "cloud", *flags, "--kv_cache_gb", 0.003) as running:
        assert "1 slot," in running.output()
        assert "prompt prefixes; each session computes the others again" in running.output()


@pytest.mark.process
def test_an_edge_half_of_another_split_is_refused(tiny_split: Callable[..., Path]) -> None:
    """It would compute other rows than the devices do."""
    out, other = tiny_split(), tiny_split(2)
    ended = run_main("cloud_main.py", "--ckpt_dir", str(out / "cloud"), "--edge_ckpt_dir", str(other / "edge"))
    assert ended.returncode == 2 and "--edge_ckpt_dir" in ended.stderr and "from different splits" in ended.stderr
