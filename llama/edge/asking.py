"""One prompt of a person's, from the sheet to the answer; every screen drives it.

Knows: the edge half, the cloud's address, the order of things. Does not know: the profile's file, what a screen looks
like.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from llama import sheets
from llama.chat import ChatFormat
from llama.checkpoint.halves import Half, chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.edge.generation import EdgeHalf, Reply, RoundTrip, reply_limit, reply_to
from llama.errors import CheckpointError, PromptError, ProtocolMismatch, UsageError
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling
from llama.privacy.policy import Kind
from llama.privacy.preparing import Prepared, holdings, prepare
from llama.privacy.profile import Profile
from llama.privacy.restoring import Restorer
from llama.privacy.sanitiser import Mode
from llama.prompt import Found, read_from_directory, read_prompt, received
from llama.sampling_params import SamplingParams
from llama.sheets import Sheet
from llama.text.money import rupiah
from llama.text.names import is_prompt_id
from llama.text.printable import printable
from llama.wire import Copy, FetchSheet, ListSheets, Offer, SheetEntry, Sheets, SheetText, Welcome


@dataclass(frozen=True)
class Answer:
    """What came of a prompt.

    Attributes:
        reply: as the model gave it, with tags.
        text: as the person reads it.
        restored: tags that were put back.
        left: texts of a tag's shape that were not.
        holdings: all that there is of the run, for ``policy.view``.
    """

    reply: Reply
    text: str = field(repr=False)
    restored: int
    left: int
    holdings: Mapping[Kind, str] = field(repr=False)


class Device:
    """The edge half on this machine.

    Args:
        ckpt_dir: the edge half that split_checkpoint.py wrote.
        load: makes the half ready to compute in the dtype that the cloud names; done once per dtype.

    Raises:
        CheckpointError, TokenizerError: the directory is no edge half, or is damaged.
    """

    def __init__(self, ckpt_dir: str, load: Callable[[Half, Welcome], EdgeHalf]) -> None:
        self.ckpt_dir, self._load = ckpt_dir, load
        self.half = read_half(ckpt_dir, "edge")
        self.tokenizer = tokenizer_of(self.half)
        self.chat: ChatFormat = chat_format_of(self.half, self.tokenizer)
        self._loaded: dict[str, EdgeHalf] = {}

    def prepare(self, found: Found, profile: Profile, mode: Mode) -> Prepared:
        """The prompt, sanitised and merged with the profile. Raises as ``privacy.preparing.prepare``."""
        return prepare(found, profile, mode, self.chat, self.tokenizer, self.half.context_length)

    def meet(self, link: Link) -> Welcome:
        """Who the cloud is, found to have the other half of this split.

        Raises:
            CheckpointError: it has another one's.
            LinkError: nobody answers, or not in this protocol.
        """
        welcome = link.hello()
        if welcome.fingerprint != self.half.fingerprint:
            raise CheckpointError(f"{self.ckpt_dir} and the cloud at {link.address} are not from the same split; copy "
                                  f"edge/ and cloud/ from one run of split_checkpoint.py")  # fmt: skip
        if (welcome.dim, welcome.split_layer) != (self.half.args.dim, self.half.split_layer) or (
            welcome.max_seq_len > self.half.context_length
        ):
            raise ProtocolMismatch(f"the cloud at {link.address} describes another model than its fingerprint does; "
                                   f"update it")  # fmt: skip
        return welcome

    def make_ready(self, welcome: Welcome) -> EdgeHalf:
        """The half in the cloud's dtype; the first time, it is loaded."""
        if welcome.dtype not in self._loaded:
            self._loaded = {welcome.dtype: self._load(self.half, welcome)}
        return self._loaded[welcome.dtype]

    def ask(
        self, link: Link, welcome: Welcome, found: Found, profile: Profile, prepared: Prepared, *,
        sampling: SamplingParams, max_gen_len: int | None = None, on_begin: Callable[[], None] = lambda: None,
        on_text: Callable[[str], None] = lambda text: None, watch: Callable[[RoundTrip], None] | None = None,
        between_steps: Callable[[], None] = lambda: None, on_finish: Callable[[], None] = lambda: None,
    ) -> Answer:  # fmt: skip
        """Run a prepared prompt.

        Args:
            link: the connection to the cloud.
            welcome: what the cloud said.
            found: the prompt and its channel.
            profile: what it was prepared with.
            prepared: what is sent.
            sampling: how the cloud chooses.
            max_gen_len: most tokens of the reply; None is what the sheet says, or whatever the context leaves.
            on_begin: called when all is ready, before anything of the prompt leaves.
            on_text: called with each new piece of the reply, restored.
            watch: called with every round trip.
            between_steps: called before each request; it may raise to end the run.
            on_finish: as of ``generation.reply_to``.

        Raises:
            PromptError: there is no room for a reply.
            LinkError: the cloud is gone, refuses, or says another text than the ids say.
        """
        ids = prepared.outgoing.ids
        if max_gen_len is None and isinstance(found.prompt, Sheet):
            max_gen_len = found.prompt.max_gen_len
        reply_limit(len(ids), max_gen_len, welcome.max_seq_len)
        with link.growing():
            edge = self.make_ready(welcome)
        restorer, restored = Restorer(prepared.sanitiser.tags), list[str]()

        def show(text: str) -> None:
            restored.append(text)
            on_text(text)

        on_begin()
        reply = reply_to(
            ids, edge=edge, link=link, welcome=welcome, tokenizer=self.tokenizer, stop_ids=self.chat.stop_ids,
            sampling=sampling, max_gen_len=max_gen_len, prompt_id=found.prompt_id,
            shared=prepared.outgoing.shared, on_text=lambda text: show(restorer.push(text)), watch=watch,
            between_steps=between_steps, on_finish=on_finish,
        )  # fmt: skip
        show(restorer.finish())
        text, timing = "".join(restored), reply.timing
        counts = f"{timing.prompt_tokens} + {timing.reply_tokens} tokens, {timing.total_s:.1f} s"
        offers = "\n".join(map(offer_line, reply.offers))
        held = holdings(found, profile, prepared, reply.text, text, counts, offers)
        return Answer(reply, text, restorer.restored, restorer.left, held)


def sheets_of(link: Link) -> tuple[SheetEntry, ...]:
    """The sheets that the cloud has. Raises LinkError."""
    reply = link.ask(ListSheets())
    if not isinstance(reply, Sheets):
        raise ProtocolMismatch(f"{link.address} answered ListSheets with another kind of reply")
    return tuple(entry for entry in reply.sheets if is_prompt_id(entry.prompt_id))  # others are not shown


def fetch(link: Link, prompt_id: str) -> Found:
    """A sheet of the cloud's own directory.

    Raises:
        LinkError: nobody answers, or there is no such sheet (with those that there are).
        PromptError: what came is malformed.
    """
    if not is_prompt_id(prompt_id):
        raise PromptError("a prompt id is NAME or VENDOR/NAME, of a-z, 0-9 and -; --list_sheets shows which there are")
    reply = link.ask(FetchSheet(prompt_id))
    if not isinstance(reply, SheetText) or reply.prompt_id != prompt_id:
        raise ProtocolMismatch(f"{link.address} answered FetchSheet with another kind of reply")
    return received(prompt_id, reply.text, reply.system, link.address)


def offer_line(offer: Offer) -> str:
    """An offer in one line: title, vendor, price."""
    return printable(f"{offer.title} ({offer.vendor}, {rupiah(offer.price)})").replace("\n", " ")


def copy_in_words(copy: Copy, party: str) -> str:
    """What became of the third party's copy; empty where no third party takes part."""
    if not party:
        return ""
    return {
        Copy.NONE: f"no copy is kept for {party}: the reply is empty, or the cloud knows no such sheet of {party}'s",
        Copy.QUEUED: f"{party} can collect the reply, with tags, and its own offers",
        Copy.WITHHELD: f"withheld from {party}, which is told only why: the reply quotes the provider's system prompt",
        Copy.FAILED: f"the cloud could not write down {party}'s copy, so {party} gets none",
    }[copy]


class SheetSource:
    """Where prompts come from: one file, a directory of sheets, or the cloud's.

    Args:
        cloud: the cloud's address, if there is one.
        prompt_file: the one prompt that there is; or
        sheet_dir: a directory of sheets on this machine. With neither, the cloud's own sheets are meant.
        deadline_s: how long the cloud may be silent.
        keys: what it is asked with.
        ceiling: of the process's memory.

    Attributes:
        while_waiting: called several times a second while the cloud is waited for; it may raise to wait no longer.

    Raises:
        UsageError: both are given, or no cloud is.
    """

    def __init__(
        self, cloud: str | None, prompt_file: str | None, sheet_dir: str | None, deadline_s: float = 30.0,
        keys: LinkKeys | None = None, ceiling: MemoryCeiling | None = None,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        if prompt_file is not None and sheet_dir is not None:
            raise UsageError("--prompt_file and --sheet_dir exclude each other; --help lists all flags")
        if prompt_file is None and sheet_dir is None and cloud is None:
            raise UsageError("sheets come from the cloud unless --sheet_dir names a directory: give --cloud, or "
                             "--sheet_dir")  # fmt: skip
        self.cloud, self.prompt_file, self.sheet_dir, self.deadline_s = cloud, prompt_file, sheet_dir, deadline_s
        self.keys, self.ceiling, self.while_waiting = keys, ceiling, while_waiting

    @property
    def is_the_cloud(self) -> bool:
        """The sheets are the cloud's own."""
        return self.prompt_file is None and self.sheet_dir is None

    def entries(self) -> tuple[SheetEntry, ...]:
        """All sheets that can be asked for. Raises PromptError, LinkError."""
        if self.prompt_file is not None:
            found = read_prompt(self.prompt_file)
            name = found.prompt_id or PurePath(self.prompt_file).name
            if not isinstance(found.prompt, Sheet):
                return (SheetEntry(name, "your own words"),)
            return (SheetEntry(name, found.prompt.title, found.prompt.asks_for),)
        if self.sheet_dir is not None:
            listed = sheets.read_all(self.sheet_dir).sheets.values()
            return tuple(SheetEntry(each.prompt_id, each.sheet.title, each.sheet.asks_for) for each in listed)
        with self._link() as link:
            return sheets_of(link)

    def find(self, prompt_id: str) -> Found:
        """The sheet of that id; with a ``prompt_file``, that file. Raises PromptError, LinkError."""
        if self.prompt_file is not None:
            return read_prompt(self.prompt_file)
        if self.sheet_dir is not None:
            return read_from_directory(self.sheet_dir, prompt_id)
        with self._link() as link:
            return fetch(link, prompt_id)

    def _link(self) -> Link:
        assert self.cloud is not None
        return Link(self.cloud, deadline_s=self.deadline_s, on_notice=lambda text: print(text, file=sys.stderr),
                    while_waiting=self.while_waiting, keys=self.keys, ceiling=self.ceiling)  # fmt: skip
