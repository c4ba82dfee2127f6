"""The edge half on this machine: read it, check it against the cloud's half, load it in the cloud's dtype.

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
"""Function that makes the half ready to compute in the dtype of the cloud's Welcome."""


class Device:
    """The edge half on this machine.

    Args:
        ckpt_dir: directory of the edge half, written by split_checkpoint.py.
        load: makes the half ready to compute; called once per dtype.

    Raises:
        CheckpointError, TokenizerError: the directory is not an edge half, or is damaged.
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
        """Send Hello, and check that the cloud has the other half of this split.

        Raises:
            CheckpointError: the cloud has a half of another split.
            LinkError: the cloud does not answer, or not in this protocol.
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
                f"the cloud at {link.address} describes another model than the one of its fingerprint; update the cloud"
            )
        return welcome

    def make_ready(self, welcome: Welcome) -> EdgeHalf:
        """Return the half in the cloud's dtype. Load it on the first call."""
        if welcome.dtype not in self._loaded:
            self._loaded = {welcome.dtype: self._load(self.half, welcome)}
        return self._loaded[welcome.dtype]
