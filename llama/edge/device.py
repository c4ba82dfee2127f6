"""The edge half on this machine: reads it, checks it against the cloud's, loads it in the cloud's dtype.

Knows: the half's directory, its tokenizer and chat format. Does not know: sheets, consents, screens.
"""

from __future__ import annotations

from collections.abc import Callable

from llama.chat import ChatFormat
from llama.checkpoint.halves import Half, chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.edge.generation import EdgeHalf
from llama.errors import CheckpointError, ProtocolMismatch
from llama.privacy.preparing import Prepared, prepare
from llama.privacy.profile import Profile
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.wire import Welcome

LoadHalf = Callable[[Half, Welcome], EdgeHalf]
"""Makes the half ready to compute in the dtype that the cloud names."""


class Device:
    """The edge half on this machine.

    Args:
        ckpt_dir: the edge half that split_checkpoint.py wrote.
        load: makes the half ready to compute; done once per dtype.

    Raises:
        CheckpointError, TokenizerError: the directory is no edge half, or is damaged.
    """

    def __init__(self, ckpt_dir: str, load: LoadHalf) -> None:
        self.ckpt_dir, self._load = ckpt_dir, load
        self.half = read_half(ckpt_dir, "edge")
        self.tokenizer = tokenizer_of(self.half)
        self.chat: ChatFormat = chat_format_of(self.half, self.tokenizer)
        self._loaded: dict[str, EdgeHalf] = {}

    def prepare(self, sourced: SourcedPrompt, profile: Profile, mode: Mode) -> Prepared:
        """Sanitise the prompt and merge it with the profile. Raises as ``privacy.preparing.prepare``."""
        return prepare(sourced, profile, mode, self.chat, self.tokenizer, self.half.context_length)

    def meet(self, link: Link) -> Welcome:
        """Ask the cloud who it is, and check that it has the other half of this split.

        Raises:
            CheckpointError: it has another one's.
            LinkError: nobody answers, or not in this protocol.
        """
        welcome = link.hello()
        if welcome.fingerprint != self.half.fingerprint:
            raise CheckpointError(
                f"{self.ckpt_dir} and the cloud at {link.address} are not from the same split; copy "
                f"edge/ and cloud/ from one run of split_checkpoint.py"
            )
        same_shape = (welcome.dim, welcome.split_layer) == (self.half.args.dim, self.half.split_layer)
        if not same_shape or welcome.max_seq_len > self.half.context_length:
            raise ProtocolMismatch(
                f"the cloud at {link.address} describes another model than its fingerprint does; update it"
            )
        return welcome

    def make_ready(self, welcome: Welcome) -> EdgeHalf:
        """Return the half in the cloud's dtype; the first time, it is loaded."""
        if welcome.dtype not in self._loaded:
            self._loaded = {welcome.dtype: self._load(self.half, welcome)}
        return self._loaded[welcome.dtype]
