"""One run's session in the cloud: open, step, finish, close.

Knows: ``llama.wire``, the link, hidden states. Does not know: text, the model's halves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

import msgspec
import torch

from llama import wire
from llama.client.link import Link
from llama.dtypes import DTYPE_NAMES, DTYPES
from llama.errors import (
    CloudUnreachable,
    MemoryCeilingReached,
    ProtocolMismatch,
    RequestUnanswered,
    SplitLlamaError,
)
from llama.sampling_params import SamplingParams
from llama.tensor_frames import hidden_to_frame
from llama.wire import Close, Final, Finish, Open, Opened, Step, Tokens, Welcome

CLOSE_S = 2.0  # to wait for the answer to Close; the cloud also closes idle sessions itself
CLOSE_STOPPED_S = 0.3  # the same, if the person stopped the run


def new_run_id() -> bytes:
    """Return the id of a new run: random bytes."""
    return os.urandom(wire.RUN_ID_BYTES)


class CloudSession:
    """One run's session in the cloud. It is a context manager, so that its slot is always freed.

    Args:
        link: the connection to the cloud.
        welcome: the cloud's Welcome.
        prompt_tokens: number of tokens of the prompt.
        sampling: sampling settings for the cloud.
        stop_ids: ids at which the cloud cuts the text.
        prompt_id: the prompt sheet's id, or empty.
        prefix_ids: the first ids of the prompt, if the cloud may have computed them before.
        run_id: id of the run; by default random bytes.

    Attributes:
        cached: number of positions that the device need not send: the whole prefix, or 0.
    """

    def __init__(
        self,
        link: Link,
        welcome: Welcome,
        *,
        prompt_tokens: int,
        sampling: SamplingParams,
        stop_ids: Sequence[int],
        prompt_id: str = "",
        prefix_ids: Sequence[int] = (),
        run_id: bytes | None = None,
    ) -> None:
        self._link, self._id, self._seq, self.cached = link, b"", 0, 0
        self._prefix_length = len(prefix_ids)
        self._dtype, self._dim = DTYPES[welcome.dtype], welcome.dim
        self._open = Open(
            run_id=run_id or new_run_id(),
            fingerprint=welcome.fingerprint,
            prompt_tokens=prompt_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop_ids=tuple(stop_ids),
            prompt_id=prompt_id,
            prefix=wire.prefix_id(welcome.fingerprint, prefix_ids) if prefix_ids else b"",
        )

    def open(self, resumed_ids: Sequence[int] = ()) -> None:
        """Open the session. Wait for a slot if the cloud is full.

        Args:
            resumed_ids: the reply's ids so far, if the cloud lost an earlier session.

        Raises:
            CloudRefused: the cloud was full for longer than the link's deadline, or refused for another reason.
        """
        opened = self._link.ask(msgspec.structs.replace(self._open, resumed_ids=tuple(resumed_ids)))
        if not isinstance(opened, Opened) or opened.cached not in (0, self._prefix_length):
            raise self._mismatch("Open")
        self._id, self._seq, self.cached = opened.session, 0, opened.cached

    def begin_step(self, hidden: torch.Tensor, position: int, want: int, times: bool = False) -> None:
        """Send hidden states ``(T, dim)``. :meth:`finish_step` waits for the ids, and with ``times`` the cloud's times.

        Args:
            hidden: hidden states of the positions from ``position`` on, in the dtype of Welcome.
            position: position of the first one.
            want: number of positions, counted from the last, that need a next id.
            times: the cloud measures its stages.
        """
        if hidden.dtype != self._dtype or hidden.shape[1] != self._dim:
            raise ValueError("the hidden states are not of the cloud's dtype and width")
        self._seq += 1
        length, dim = hidden.shape
        step = Step(self._id, self._seq, position, want, DTYPE_NAMES[hidden.dtype], length, dim, times)
        self._want = want
        self._link.begin(step, hidden_to_frame(hidden))

    def finish_step(self) -> Tokens:
        """Wait for the answer to the hidden states that were sent last."""
        tokens = self._link.finish()
        if not isinstance(tokens, Tokens) or len(tokens.ids) != self._want:
            raise self._mismatch("Step")
        return tokens

    def finish(self, end: int) -> Final:
        """Finish the reply with outputs ``0 … end-1`` and return its text. This cannot be undone, even unanswered."""
        self._seq += 1
        final = self._link.ask(Finish(self._id, self._seq, end))
        if not isinstance(final, Final):
            raise self._mismatch("Finish")
        return final

    def __enter__(self) -> CloudSession:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the session. Try once and briefly, because the cloud also closes idle sessions itself."""
        gone = isinstance(error, CloudUnreachable) and not isinstance(error, RequestUnanswered)
        if gone or isinstance(error, MemoryCeilingReached):
            self._link.abandon()
            return
        stopped = error is not None and not isinstance(error, SplitLlamaError)  # Ctrl-C, Stop, a broken pipe
        waiting = self._link.while_waiting
        if stopped:  # it would raise once more
            self._link.while_waiting = None
        try:
            brief = stopped or isinstance(error, RequestUnanswered)
            self._link.tell(Close(self._id, self._seq + 1), CLOSE_STOPPED_S if brief else CLOSE_S)
        finally:
            self._link.while_waiting = waiting

    def _mismatch(self, request: str) -> ProtocolMismatch:
        return ProtocolMismatch(f"{self._link.address} answered {request} with another kind of reply")
