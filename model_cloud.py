"""The cloud's half of the model: layers ``k … n-1``, the final norm and the output head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llama import parallel
from llama.kv_cache import KVCache, StepMetadata
from llama.model import RMSNorm, TransformerLayers
from llama.model_args import ModelArgs
from llama.parallel import ColumnParallelLinear, side_by_side
from llama.stages import StageClock


class CloudTransformer(TransformerLayers):
    """Model part from the device's hidden states to logits.

    Args:
        args: Meta's hyperparameters of the whole model.
        split_layer: k, the first layer in the cloud, ``1 … n_layers-1``.
    """

    def __init__(self, args: ModelArgs, split_layer: int) -> None:
        super().__init__(args, range(split_layer, args.n_layers))
        self.norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.output = ColumnParallelLinear(args.dim, args.vocab_size)

    def prepare(self, for_good: bool = False) -> None:
        """Prepare the layers and the output head."""
        super().prepare(for_good)
        self._output = side_by_side(self.output, for_good=for_good)

    @torch.inference_mode()
    def forward(
        self,
        h: torch.Tensor,
        start_pos: Sequence[int],
        cache: KVCache,
        want: int,
        clock: StageClock | None = None,
        slots: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Turn hidden states ``(B, T, dim)`` at ``start_pos[b] …`` into float32 logits ``(B, want, vocab)``.

        Only the last ``want`` positions get logits: a prompt needs one, and each costs a row of the vocabulary's size.
        ``clock`` is stopped after each layer; the remaining time belongs to the norm and the output head. ``slots``
        are the ascending cache slots of the B sequences; None means all.
        """
        h = self.run_layers(h, start_pos, cache, clock, slots)
        if want == 0:
            return h.new_empty(h.shape[0], 0, self.args.vocab_size, dtype=torch.float32)
        return self._logits(h[:, -want:].flatten(0, 1)).view(h.shape[0], want, -1)

    def decode(self, h: torch.Tensor, step: StepMetadata, cache: KVCache) -> torch.Tensor:
        """Turn one hidden state of each sequence, ``(B, dim)``, into float32 logits ``(B, vocab)``; prepare first."""
        return self._logits(self.run_step(h, step, cache))

    def _logits(self, h: torch.Tensor) -> torch.Tensor:
        return parallel.gather(self._output(self.norm(h))).float()
