"""The model on one or several ranks: rank 0 sends commands, and the other ranks do the same work.

Before each action rank 0 broadcasts a *command* of five int64 numbers, and for a step the hidden states. Both go
through gloo on the CPU, because they are small and because a GPU then does not spin while it waits for a command. The
ranks never exchange pickled objects.

Knows: the model, its cache, the ranks. Does not know: sessions, sockets, sampling.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.distributed as dist

from llama import parallel
from llama.cloud.cuda_graphs import DecodeGraphs
from llama.dtypes import DTYPES
from llama.kv_cache import KVCache
from llama.stages import StageClock


class Action(enum.IntEnum):
    """First number of a command. The comments name its other numbers."""

    STEP = 1  # slot, position, length, want; the hidden states follow
    CLEAR = 2  # slot, end
    HEARTBEAT = 3  # keeps the wait of other ranks from timing out
    SHUT_DOWN = 4
    DECODE = 5  # number of slots; the slots and positions follow, then the hidden state of each
    KEEP = 6  # slot, end
    FILL = 7  # slot, number


class ModelRunner:
    """The cloud's half on all ranks.

    Args:
        model: the layers, called as ``model(h, start_pos, cache, want)``; see ``CloudTransformer``.
        cache: KV cache of ``max_batch_size`` slots.
        dim: width of the hidden states.
        graphs: CUDA graphs of the same model and cache, used only if there is one rank; None runs all steps without.
    """

    def __init__(self, model: torch.nn.Module, cache: KVCache, dim: int, graphs: DecodeGraphs | None = None) -> None:
        self.model, self.cache = model, cache
        self._slot = lru_cache(maxsize=64)(cache.slot)  # views of all layers, which are slow to create
        self._kept = list[torch.Tensor]()  # entries of the prefix cache, (layers, 2, 1, K, end, D)
        self.dim = dim
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.alone = parallel.world_size() == 1
        self._graphs = graphs if self.alone else None
        assert self.dtype in DTYPES.values()

    @property
    def has_graphs(self) -> bool:
        """True if decoding steps run as CUDA graphs, except timed ones."""
        return self._graphs is not None

    # ---- rank 0

    def step(
        self, slot: int, position: int, hidden: torch.Tensor, want: int, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Run hidden states ``(T, dim)`` at ``position …`` of a slot. Return float32 logits ``(want, vocab)``.

        ``clock`` is stopped after each of this rank's layers. With a clock the step runs without a CUDA graph.
        """
        self._command(Action.STEP, slot, position, len(hidden), want)
        if not self.alone:
            dist.broadcast(hidden, 0)
        return self._step(slot, position, hidden, want, clock)

    def decode(
        self, slots: Sequence[int], positions: Sequence[int], hidden: torch.Tensor, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Run one position of each of several slots at once. The slots must ascend.

        Row b of ``hidden``, ``(B, dim)``, is at ``positions[b]`` of ``slots[b]``. Returns float32 logits
        ``(B, vocab)``.
        """
        self._command(Action.DECODE, len(slots))
        if not self.alone:
            dist.broadcast(torch.tensor([list(slots), list(positions)], dtype=torch.int64), 0)
            dist.broadcast(hidden, 0)
        return self._decode(slots, positions, hidden, clock)

    def clear(self, slot: int, end: int) -> None:
        """Zero positions ``0 … end-1`` of a slot."""
        self._command(Action.CLEAR, slot, end)
        self._slot(slot).clear(end)

    def keep(self, slot: int, end: int) -> int:
        """Keep a copy of positions ``0 … end-1`` of a slot. Return its number for :meth:`fill`."""
        self._command(Action.KEEP, slot, end)
        self._keep(slot, end)
        return len(self._kept) - 1

    def fill(self, slot: int, number: int) -> None:
        """Copy kept entry ``number`` to the beginning of a slot."""
        self._command(Action.FILL, slot, number)
        self._fill(slot, number)

    def heartbeat(self) -> None:
        """Tell the other ranks that rank 0 is alive.

        Call this at least every few minutes: a rank without any command gives up.
        """
        self._command(Action.HEARTBEAT)

    def shut_down(self) -> None:
        """End :meth:`follow` on the other ranks."""
        self._command(Action.SHUT_DOWN)

    # ---- the others

    def follow(self) -> None:
        """Do the same work as rank 0, until it shuts down.

        Raises:
            RuntimeError: from torch: rank 0 has ended without shutting down, or the wait timed out.
        """
        command = torch.empty(5, dtype=torch.int64)
        while True:
            dist.broadcast(command, 0)
            action, slot, position, length, want = command.tolist()
            if action == Action.STEP:
                hidden = torch.empty(length, self.dim, dtype=self.dtype)
                dist.broadcast(hidden, 0)
                self._step(slot, position, hidden, want)
            elif action == Action.DECODE:
                where = torch.empty(2, slot, dtype=torch.int64)
                dist.broadcast(where, 0)
                hidden = torch.empty(slot, self.dim, dtype=self.dtype)
                dist.broadcast(hidden, 0)
                slots, positions = where.tolist()
                self._decode(slots, positions, hidden)
            elif action == Action.CLEAR:
                self._slot(slot).clear(position)
            elif action == Action.KEEP:
                self._keep(slot, position)
            elif action == Action.FILL:
                self._fill(slot, position)
            elif action == Action.SHUT_DOWN:
                return

    # ---- all

    def _command(self, action: Action, *numbers: int) -> None:
        if not self.alone:
            command = torch.tensor([action, *numbers, *[0] * (4 - len(numbers))], dtype=torch.int64)
            dist.broadcast(command, 0)

    def _keep(self, slot: int, end: int) -> None:
        self._kept.append(self._slot(slot).keys_values[..., :end, :].clone())

    def _fill(self, slot: int, number: int) -> None:
        kept = self._kept[number]
        self._slot(slot).keys_values[..., : kept.shape[-2], :].copy_(kept)

    def _step(
        self, slot: int, position: int, hidden: torch.Tensor, want: int, clock: StageClock | None = None
    ) -> torch.Tensor:
        if len(hidden) == 1 and want == 1 and clock is None and self._graphs is not None:
            return self._graphs([slot], [position], hidden)
        timed = () if clock is None else (clock,)
        logits: torch.Tensor = self.model(hidden[None].to(self.device), [position], self._slot(slot), want, *timed)[0]
        return logits

    def _decode(
        self, slots: Sequence[int], positions: Sequence[int], hidden: torch.Tensor, clock: StageClock | None = None
    ) -> torch.Tensor:
        if self._graphs is not None and clock is None and self._graphs.fits(len(slots)):
            return self._graphs(slots, positions, hidden)
        first, end = slots[0], slots[-1] + 1
        part = [slot - first for slot in slots]
        cache, h = self.cache.slots(first, end), hidden[:, None].to(self.device)
        logits: torch.Tensor = self.model(h, positions, cache, 1, clock, part)[:, 0]
        return logits
