"""Claims about sheets that third parties publish themselves: real keys, real files, at the end the real programs."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cloud_main
from llama import wire
from llama.client.link import Link
from llama.cloud.provider import ProviderServices
from llama.cloud.run_store import RunStore
from llama.cloud.sheet_publisher import MAX_SHEETS_EACH, SheetPublisher
from llama.edge.sheet_source import fetch, sheets_of
from llama.errors import CloudRefused, PromptError, UsageError
from llama.keys import LinkKeys
from llama.prompt import received
from llama.sheets import Listed, SheetDirectory, parse_sheet, read_all, read_listed
from llama.tokenizer import Tokenizer
from llama.vendor.program import main
from llama.wire import (
    MAX_SHEETS,
    Close,
    Collect,
    Deliveries,
    DeliveryStatus,
    Final,
    Finish,
    Publish,
    Published,
    Refused,
    Withdraw,
    Withdrawn,
)
from tests.processes import cloud
from tests.support import Halves, Keys, Served, code_of, exit_code, open_request, run_main, written

Splits = Callable[..., Path]
OLD, NEW = 'title = "Old"\nquestions = ["Which cover, of old?"]', 'title = "New"\nquestions = ["Which cover, anew?"]'
SHEETS = {
    "system.txt": "Never sell two of a kind.",
    "gifts.toml": 'questions = ["What?"]',
    "insurer/cover.toml": OLD,
    "insurer-b/cover.toml": 'questions = ["Whose?"]',
}


@dataclass
class Shop:
    """A cloud where third parties publish, and the keys of three who speak to it."""

    served: Served
    keys: Keys
    sheet_dir: Path
    phone: LinkKeys
    insurer: LinkKeys

    def ask(self, request: wire.Request, keys: LinkKeys | None = None) -> wire.Reply:
        with self.served.peer(keys=keys or self.insurer) as peer:
            return peer.ask(request)

    def listed(self) -> list[str]:
        """What devices are told that there is."""
        with Link(self.served.endpoint, keys=self.phone) as link:
            return [entry.prompt_id for entry in sheets_of(link)]

    def files(self) -> dict[str, bytes]:
        """All there is below the directory."""
        return contents(self.sheet_dir)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def sheet_dir(tmp_path: Path) -> Path:
    return written(tmp_path / "sheets", SHEETS)


@pytest.fixture
def shop(halves: Halves, tokenizer: Tokenizer, sheet_dir: Path, tmp_path: Path) -> Iterator[Shop]:
    keys, directory = Keys(tmp_path), read_all(str(sheet_dir))
    with closing(RunStore(tmp_path / "runs.sqlite")) as record:
        services = ProviderServices.of(
            tokenizer, store=record, directory=directory, publisher=SheetPublisher(str(sheet_dir), directory)
        )
        with Served(halves, tokenizer, services=services, keys=keys.of_the_cloud()) as served:
            yield Shop(served, keys, sheet_dir, keys.make("phone"), keys.make("insurer", "vendor"))


# ---- what devices find


def test_what_is_published_is_there_at_once_and_also_after_a_restart(shop: Shop) -> None:
    """A third party's first sheet, too; the list has the order that it would have after a restart."""
    florist = shop.keys.make("florist", "vendor")
    assert shop.ask(Publish("florist", "roses", NEW), florist) == Published("florist/roses")
    assert shop.ask(Publish("insurer", "claim", NEW)) == Published("insurer/claim")
    after_a_restart = read_all(str(shop.sheet_dir)).sheets
    assert shop.listed() == list(after_a_restart)
    assert set(shop.listed()) == {
        "gifts",
        "insurer/cover",
        "insurer-b/cover",
        "florist/roses",
        "insurer/claim",
    }
    with Link(shop.served.endpoint, keys=shop.phone) as link:
        found = fetch(link, "florist/roses")
    assert found.prompt == after_a_restart["florist/roses"].sheet and found.party == "florist"
    assert found.provider_system == SHEETS["system.txt"]
    assert set(shop.files()) == {*SHEETS, "florist/roses.toml", "insurer/claim.toml"}
    assert stat.S_IMODE((shop.sheet_dir / "florist/roses.toml").stat().st_mode) & 0o133 == 0


def test_a_sheet_is_replaced_and_withdrawn_while_the_cloud_runs(shop: Shop) -> None:
    """Devices find the new text, then a refusal with what there is; so do those of after a restart."""
    for _ in range(2):  # a repeat, as after a lost reply
        assert shop.ask(Publish("insurer", "cover", NEW)) == Published("insurer/cover")
    with Link(shop.served.endpoint, keys=shop.phone) as link:
        assert fetch(link, "insurer/cover").prompt == parse_sheet(NEW, "")
        assert shop.ask(Withdraw("insurer", "cover")) == Withdrawn()
        with pytest.raises(CloudRefused, match=r"unknown_sheet.*it has gifts, insurer-b/cover"):
            fetch(link, "insurer/cover")
    assert shop.listed() == list(read_all(str(shop.sheet_dir)).sheets) == ["gifts", "insurer-b/cover"]
    refused = shop.ask(Withdraw("insurer", "cover"))
    assert isinstance(refused, wire.Error) and (refused.code, refused.advice) == ("unknown_sheet", "it has none")


@pytest.mark.parametrize("change", [Publish("insurer", "cover", NEW), Withdraw("insurer", "cover")])
def test_a_run_that_has_begun_is_delivered_with_the_sheet_as_it_was(shop: Shop, change: wire.Request) -> None:
    """Whether it was replaced or withdrawn meanwhile; a run that begins afterwards has what there is then."""

    def begin() -> bytes:
        with shop.served.peer(keys=shop.phone) as peer:
            return shop.served.open(peer, open_request(5, prompt_id="insurer/cover", resumed_ids=(65, 66)))

    def end(session: bytes) -> DeliveryStatus:
        final = shop.ask(Finish(session, 1, 2), shop.phone)
        assert isinstance(final, Final) and code_of(shop.ask(Close(session, 2), shop.phone)) == "Closed"
        return final.copy

    session = begin()
    assert code_of(shop.ask(change)) in ("Published", "Withdrawn")
    assert end(session) is DeliveryStatus.QUEUED
    is_there_still = isinstance(change, Publish)
    assert end(begin()) is (DeliveryStatus.QUEUED if is_there_still else DeliveryStatus.NONE)
    collected = shop.ask(Collect("insurer"))
    assert isinstance(collected, Deliveries)
    assert [delivery.prompt for delivery in collected.deliveries] == ([OLD, NEW] if is_there_still else [OLD])


def test_a_vendor_without_sheets_can_wait_for_deliveries(shop: Shop) -> None:
    """It may publish its first one any time; its key says that it is no misspelt name."""
    assert shop.ask(Collect("florist"), shop.keys.make("florist", "vendor")) == Deliveries(())


# ---- what is refused


NO_SHEETS = [
    "",
    "zimtstern",
    'title = "zimtstern"',
    'questions = ["zimtstern"]\nmore = 1',
    "questions = [",
    'questions = ["zimtstern"]\nasks_for = ["Zimtstern"]',
    'questions = ["zimtstern\x00"]',
    "\ufeff" + OLD + "[",
    r'questions = ["zimtstern\u0000"]',
    r'questions = ["zimtstern\u001b[2J"]',
    r'questions = ["zimtstern\u202e"]',
    'questions = ["x"]\n"zimtstern and more" = 1',
    f'questions = ["x"]\n"{"zimtstern" * 5000}" = 1',
    f'questions = ["{"é" * (wire.MAX_SHEET_BYTES // 2)}"]',
    "a." * 30_000 + "a = 1",
    "[" * 60_000,
]
NO_NAMES = ["../gifts", "a/b", "/etc/cron", "..", ".", "", "gifts.toml", "A", "a" * 81, "a\n", "\0"]


def test_what_is_no_sheet_is_refused_and_what_was_there_stays(shop: Shop) -> None:
    """By the place that is wrong, with nothing of what stands there."""
    for text in NO_SHEETS:
        refused = shop.ask(Publish("insurer", "cover", text))
        assert isinstance(refused, wire.Error) and refused.code == "bad_sheet", text[:80]
        assert refused.message.startswith("sheet insurer/cover: ") and "zimtstern" not in refused.message.casefold()
        assert len(refused.message) < 500
    assert shop.files() == {name: text.encode() for name, text in SHEETS.items()}
    assert shop.listed() == list(read_all(str(shop.sheet_dir)).sheets)


def test_lines_and_tabs_are_text(shop: Shop) -> None:
    """Whichever way they are written; so are marks that right-to-left text needs."""
    text = 'questions = ["""a\nb\tc""", "d\\ne\\tf\\r\\ng", "\\u200f"]\nsystem = "h\\n"'
    assert shop.ask(Publish("insurer", "cover", text)) == Published("insurer/cover")
    assert read_all(str(shop.sheet_dir)).sheets["insurer/cover"].sheet.questions[0] == "a\nb\tc"


def test_of_many_names_a_refusal_has_the_first_ones(shop: Shop, tmp_path: Path) -> None:
    """For a device, for a third party, and for who reads a directory of files: how many more there are is said."""
    for i in range(30):
        assert shop.ask(Publish("insurer", f"{'n' * 70}-{i:02}", NEW)) == Published(f"insurer/{'n' * 70}-{i:02}")
    device = shop.ask(wire.FetchSheet("nothing"), shop.phone)
    vendor = shop.ask(Withdraw("insurer", "nothing"))
    assert isinstance(device, wire.Error) and isinstance(vendor, wire.Error)
    with pytest.raises(PromptError) as own:
        read_listed(str(shop.sheet_dir), "nothing")
    for said, there in ((device.advice, 33), (vendor.advice, 31), (str(own.value), 33)):
        assert said.count("insurer") <= 11 and said.endswith(f" and {there - 10} more") and len(said) < 1200


def test_a_system_prompt_that_cannot_be_shown_is_refused(sheet_dir: Path, tmp_path: Path) -> None:
    """At the cloud's start by file and line, on a device by the sheet that came with it."""
    (sheet_dir / "system.txt").write_text("Be kind.\nzimtstern\x1b[2J")
    with pytest.raises(PromptError, match=r"system\.txt: a control character.* at `line 2`") as refused:
        read_all(str(sheet_dir))
    assert "zimtstern" not in str(refused.value)
    with pytest.raises(PromptError, match=r"sheet gifts of tcp://x, the provider's system prompt: .* at `line 1`"):
        received("gifts", NEW, "zimtstern\u202e", "tcp://x")


def test_no_name_leads_anywhere_but_into_the_vendors_own_directory(shop: Shop) -> None:
    """Such a request is none at all; nothing is written, there or elsewhere."""

    def there() -> dict[str, bytes]:
        return {k: v for k, v in contents(shop.sheet_dir.parent).items() if "runs.sqlite" not in k}

    before = there()
    with shop.served.peer(keys=shop.insurer) as peer:
        for field, name in itertools.product(("vendor", "name"), NO_NAMES):
            fields = {"type": "withdraw", "vendor": "insurer", "name": "cover", field: name}
            assert code_of(peer.exchange(msgspec.msgpack.encode(fields))) == "bad_request", (field, name)
            fields |= {"type": "publish", "text": NEW}
            assert code_of(peer.exchange(msgspec.msgpack.encode(fields))) == "bad_request", (field, name)
    assert there() == before


def test_links_and_what_a_kill_has_left_are_replaced_and_never_followed(shop: Shop, tmp_path: Path) -> None:
    """A sheet that is a link, a third party's directory that is one, an unfinished file that is one."""
    outside = written(tmp_path / "outside", {"cover.toml": "theirs"})
    own = shop.sheet_dir / "insurer"
    for name in ("cover.toml", ".unfinished"):
        (own / name).unlink(missing_ok=True)
        (own / name).symlink_to(outside / "cover.toml")
    assert shop.ask(Publish("insurer", "cover", NEW)) == Published("insurer/cover")
    assert (own / "cover.toml").read_text() == NEW and not (own / "cover.toml").is_symlink()
    (own / "cover.toml").unlink()
    (own / "cover.toml").symlink_to(outside / "cover.toml")
    assert shop.ask(Withdraw("insurer", "cover")) == Withdrawn()
    assert sorted(own.iterdir()) == []
    own.rmdir()
    own.symlink_to(outside)
    assert code_of(shop.ask(Publish("insurer", "cover", NEW))) == "internal"
    assert contents(outside) == {"cover.toml": b"theirs"}


def test_what_cannot_be_written_changes_nothing(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    """A directory is in the way. The third party is told that it is not its fault, and the provider where it is."""
    (shop.sheet_dir / "insurer" / "claim.toml").mkdir()
    refused = shop.ask(Publish("insurer", "claim", NEW))
    assert isinstance(refused, wire.Error) and (refused.code, refused.advice) == ("internal", "tell the provider")
    assert str(shop.sheet_dir) not in refused.message and "insurer/claim" not in shop.listed()
    assert 'event=publishing_failed message="--sheet_dir cannot be written (Is a directory)"' in (
        capfd.readouterr().err
    )
    assert shop.ask(Publish("insurer", "cover", NEW)) == Published("insurer/cover")


def test_a_vendor_has_so_many_sheets_and_all_together_have(tmp_path: Path, sheet_dir: Path) -> None:
    """Those that there are may still be replaced, and one that is withdrawn makes room."""
    publisher = SheetPublisher(str(sheet_dir), read_all(str(sheet_dir)))
    for most, others in ((MAX_SHEETS_EACH, "insurer/n{}"), (MAX_SHEETS, "party-{}/n")):
        sheet = parse_sheet(OLD, "")
        ids = [others.format(i) for i in range(most - 1)]
        directory = SheetDirectory({each: Listed(each, OLD, sheet) for each in ["insurer/cover", *ids]})
        with pytest.raises(Refused, match=f"{most} sheets, the most") as refused:
            publisher.publish(directory, Publish("insurer", "one-more", NEW))
        assert refused.value.error.code == "out_of_range" and refused.value.error.advice
        assert not (sheet_dir / "insurer" / "one-more.toml").exists()
        assert publisher.publish(directory, Publish("insurer", "cover", NEW)).sheets["insurer/cover"].text == NEW
        directory = publisher.withdraw(directory, Withdraw("insurer", "cover"))
        assert "insurer/one-more" in publisher.publish(directory, Publish("insurer", "one-more", NEW)).sheets
        (sheet_dir / "insurer" / "one-more.toml").unlink()


@given(
    st.text(max_size=60)
    | st.builds(
        "{}questions = [{!r}]{}".format, st.sampled_from(["", "\ufeff", "# x\r\n"]), st.text(), st.text(max_size=5)
    )
)
def test_whatever_is_published_the_cloud_can_read_it_at_its_next_start(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """A sheet that is taken is read as the same one; one that could not be read is refused."""
    sheet_dir = written(tmp_path_factory.mktemp("any"), {"system.txt": "Be kind."})
    directory = read_all(str(sheet_dir))
    try:
        taken = SheetPublisher(str(sheet_dir), directory).publish(directory, Publish("insurer", "cover", text))
    except Refused as refused:
        assert refused.error.code == "bad_sheet"
        taken = directory
    read = read_all(str(sheet_dir)).sheets
    assert {k: v.sheet for k, v in read.items()} == {k: v.sheet for k, v in taken.sheets.items()}


def test_a_cloud_takes_no_sheets_unless_the_provider_lets_it(
    halves: Halves, tokenizer: Tokenizer, sheet_dir: Path, tmp_path: Path
) -> None:
    """Off by default, never without keys; each refusal says what the provider can do."""
    keys, directory = Keys(tmp_path), read_all(str(sheet_dir))
    insurer = keys.make("insurer", "vendor")
    with closing(RunStore(tmp_path / "runs.sqlite")) as record:
        closed = ProviderServices.of(tokenizer, store=record, directory=directory)
        taking = ProviderServices.of(
            tokenizer, store=record, directory=directory, publisher=SheetPublisher(str(sheet_dir), directory)
        )
        for request in (Publish("insurer", "cover", NEW), Withdraw("insurer", "cover")):
            with Served(halves, tokenizer, services=closed, keys=keys.of_the_cloud()) as served:
                with served.peer(keys=insurer) as peer:
                    refused = peer.ask(request)
            assert isinstance(refused, wire.Error) and refused.code == "not_served"
            assert refused.advice == "the provider can start it with --publishing"
            with Served(halves, tokenizer, services=taking) as served, served.peer() as peer:
                refused = peer.ask(request)
            assert isinstance(refused, wire.Error) and refused.code == "not_allowed"
            assert "--key_file and --allow_dir" in refused.advice
    assert contents(sheet_dir) == {name: text.encode() for name, text in SHEETS.items()}


# ---- command lines


def vendor(*flags: str) -> int:
    """The third party's program, in this process."""
    return exit_code(main, *flags)


def as_insurer(shop_keys: Keys) -> tuple[str, ...]:
    directory = shop_keys.directory
    return "--key_file", str(directory / "insurer.key"), "--cloud_key", str(directory / "cloud.pub")


def test_the_program_publishes_a_file_and_withdraws_it_by_its_name(
    shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints the prompt id; what the cloud refuses is one line."""
    (tmp_path / "claim.toml").write_bytes(b"\xef\xbb\xbf" + NEW.encode())  # as some editors save UTF-8
    to_the_cloud = ("--cloud", shop.served.endpoint, "--vendor", "insurer", *as_insurer(shop.keys))
    assert vendor(*to_the_cloud, "--publish", str(tmp_path / "claim.toml")) == 0
    assert capfd.readouterr().out == "published insurer/claim\n" and "insurer/claim" in shop.listed()
    for says, note in (("claim", ""), ("other", " (the file's name is its id; the one in it is not used)")):
        (tmp_path / "claim.toml").write_text(f'id = "{says}"\n{NEW}')
        assert vendor(*to_the_cloud, "--publish", str(tmp_path / "claim.toml")) == 0
        assert capfd.readouterr().out == f"published insurer/claim{note}\n"
    assert vendor(*to_the_cloud, "--withdraw", "claim") == 0
    assert capfd.readouterr().out == "withdrawn insurer/claim\n" and "insurer/claim" not in shop.listed()
    assert vendor(*to_the_cloud, "--withdraw", "claim") == 1
    refused = "the cloud refused (unknown_sheet): this cloud has no sheet insurer/claim; it has insurer/cover"
    assert capfd.readouterr() == ("", f"error: {refused}\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--publish", "{}/Claim.toml"),
            "--publish must be a file NAME.toml, with NAME 1 to 80 of a-z, 0-9 and - (got",
        ),
        (("--publish", "{}/claim.txt"), "--publish must be a file NAME.toml, with NAME 1 to 80 of a-z, 0-9 and - (got"),
        (("--publish", "{}/nothing.toml"), "error: sheet {}/nothing.toml: no such file"),
        (("--publish", "{}/broken.toml"), "error: sheet {}/broken.toml: not valid TOML (at end of document)"),
        (("--publish", "{}/large.toml"), "large.toml: 70021 bytes, but a published sheet has at most 65536"),
        (("--publish", "{}/claim.toml"), "--publish requires --key_file and --cloud_key"),
        (
            ("--publish", "{}/claim.toml", "--follow"),
            "--follow is for collecting; omit it to publish or withdraw a sheet",
        ),
        (("--withdraw", "claim", "--spool", "{}"), "--spool is for collecting; omit it to publish or withdraw a sheet"),
        (("--publish", "{}/claim.toml", "--withdraw", "claim"), "--publish and --withdraw cannot be combined"),
        (
            ("--withdraw", "claim.toml"),
            "--withdraw must be a sheet's name without .toml, 1 to 80 of a-z, 0-9 and - (got",
        ),
        (("--withdraw", "../claim"), "--withdraw must be a sheet's name without .toml, 1 to 80 of a-z, 0-9 and - (got"),
    ],
)
def test_what_is_wrong_is_told_before_anybody_is_asked(
    flags: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one line; nothing of the file is in it."""
    large = f'questions = ["{"z" * 70_005}"]'
    written(
        tmp_path,
        {"claim.toml": NEW, "Claim.toml": NEW, "claim.txt": NEW, "broken.toml": "zimtstern", "large.toml": large},
    )
    assert vendor("--cloud", "tcp://127.0.0.1:9", "--vendor", "insurer", *(f.format(tmp_path) for f in flags)) in (1, 2)
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert said.format(tmp_path) in err and "zimtstern" not in err


def test_a_cloud_that_cannot_take_sheets_does_not_start(tiny_split: Splits, tmp_path: Path, sheet_dir: Path) -> None:
    """Without a directory, a record or keys; without a system prompt; where it may not write."""
    given = {"ckpt_dir": str(tiny_split() / "cloud"), "publishing": True, "sheet_dir": str(sheet_dir)}
    for flags in ({}, {"record_file": "r"}, {"key_file": "k", "allow_dir": "a"}):
        with pytest.raises(
            UsageError, match="--publishing requires --sheet_dir, --record_file, --key_file and --allow_dir"
        ):
            cloud_main.main(**given, **flags)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--sheet_dir here has none; write it into system\.txt"):
        SheetPublisher("here", SheetDirectory({}))
    with pytest.raises(UsageError, match="requires a writable --sheet_dir"):
        SheetPublisher(str(tmp_path / "nowhere"), read_all(str(sheet_dir)))


# ---- the programs


@pytest.mark.process
def test_from_a_published_sheet_to_its_delivery_and_its_withdrawal(
    tiny_split: Splits, sheet_dir: Path, tmp_path: Path
) -> None:
    """The third party publishes, a device runs it, the third party collects, withdraws, and the device is refused."""
    half, keys, sheet = tiny_split(), Keys(tmp_path), tmp_path / "claim.toml"
    keys.make("phone")
    keys.make("insurer", "vendor")
    sheet.write_text('questions = ["Which claim, says zimtstern?"]')
    as_phone = ("--key_file", str(tmp_path / "phone.key"), "--cloud_key", str(tmp_path / "cloud.pub"))
    with cloud(
        half / "cloud",
        "--key_file",
        tmp_path / "cloud.key",
        "--allow_dir",
        keys.allowed,
        "--sheet_dir",
        sheet_dir,
        "--record_file",
        tmp_path / "runs.sqlite",
        "--publishing",
        "--threads",
        1,
    ) as running:
        insurer = ("-m", "llama.vendor", "--cloud", running.address, "--vendor", "insurer", *as_insurer(keys))
        device = (
            "edge_main.py",
            "--ckpt_dir",
            str(half / "edge"),
            "--cloud",
            running.address,
            *as_phone,
            "--prompt_id",
            "insurer/claim",
            "--yes",
            "--json",
            "--max_gen_len",
            "8",
        )
        published = run_main(*insurer, "--publish", str(sheet))
        assert (published.returncode, published.stdout, published.stderr) == (0, "published insurer/claim\n", "")
        ran = run_main(*device)
        assert ran.returncode == 0, ran.stderr
        collected = run_main(*insurer)
        (delivery,) = [json.loads(line) for line in collected.stdout.splitlines()]
        assert (delivery["prompt_id"], delivery["prompt"]) == ("insurer/claim", sheet.read_text())
        assert delivery["text"] == json.loads(ran.stdout)["text_sent"]
        assert vendor(*insurer[2:], "--withdraw", "claim") == 0
        refused = run_main(*device)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == (
            "error: the cloud refused (unknown_sheet): this cloud has no such sheet; it has gifts, insurer/cover, "
            "insurer-b/cover"
        )
        said = running.output()
    assert "event=sheet_published" in said and "event=sheet_withdrawn" in said
    assert "zimtstern" not in said and "zimtstern" not in refused.stderr
    assert os.listdir(sheet_dir / "insurer") == ["cover.toml"]  # noqa: PTH208
