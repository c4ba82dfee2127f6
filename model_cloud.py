"""The cloud's half of the model: layers ``k … n-1``, the final norm and the output head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llama import parallel
from llama.model import KVCache, ModelArgs, Positions, RMSNorm, TransformerLayers
from llama.parallel import ColumnParallelLinear, side_by_side
from llama.stages import StageClock


class CloudTransformer(TransformerLayers):
    """The device's rows in, logits out.

    Args:
        args: Meta's hyperparameters of the whole model.
        split_layer: k, the first layer that is here, ``1 … n_layers-1``.
    """

    def __init__(self, args: ModelArgs, split_layer: int) -> None:
        super().__init__(args, range(split_layer, args.n_layers))
        self.norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.output = ColumnParallelLinear(args.dim, args.vocab_size)

    def prepare(self, for_good: bool = False) -> None:
        """As the layers', and the output head."""
        super().prepare(for_good)
        self._output = side_by_side(self.output, for_good=for_good)

    @torch.inference_mode()
    def forward(
        self, h: torch.Tensor, start_pos: Sequence[int], cache: KVCache, want: int, clock: StageClock | None = None,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Rows ``(B, T, dim)`` at positions ``start_pos[b] …`` to float32 logits ``(B, want, vocab)``.

        Only the last ``want`` positions get logits: a prompt needs one, and every row of them costs a vocabulary.
        ``clock`` is stopped after each layer; what follows is the norm's and the output head's. ``rows``, ascending,
        says which rows of the cache the B are, where it has others, too.
        """
        h = self.run_layers(h, start_pos, cache, clock, rows)
        if want == 0:
            return h.new_empty(h.shape[0], 0, self.args.vocab_size, dtype=torch.float32)
        return self._logits(h[:, -want:].flatten(0, 1)).view(h.shape[0], want, -1)

    def decode_at(self, h: torch.Tensor, positions: Positions, cache: KVCache) -> torch.Tensor:
        """One row ``(B, dim)`` of each sequence to float32 logits ``(B, vocab)``; prepared."""
        return self._logits(self.run_layers_at(h, positions, cache))

    def _logits(self, h: torch.Tensor) -> torch.Tensor:
        return parallel.gather(self._output(self.norm(h))).float()
