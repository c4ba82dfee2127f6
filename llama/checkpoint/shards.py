"""Reading tensors that are divided among ``consolidated.NN.pth`` files, as if they were whole.

Knows: the regions of ``layout``.
Knows nothing about: torch's file format (``pth_reading``), params.json, tokenizers, halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from llama.checkpoint.layout import Region, region_shape
from llama.checkpoint.pth_reading import ForeignContents, NotAStateDict, OldFormat, read_state_dict
from llama.errors import CheckpointError

SLAB_BYTES = 32 << 20  # large enough for full disk speed, small enough that several copies of it do not count


def open_pth(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in ``path``, memory-mapped and private: nothing is read before it is touched.

    Raises:
        CheckpointError: the file cannot be opened, is damaged, or holds something other than tensors by name.
    """
    try:
        return read_state_dict(path)
    except ForeignContents:
        raise CheckpointError(f"{path} holds more than tensors and is not loaded; use the file as released") from None
    except OldFormat:
        raise CheckpointError(f"{path} is in the format of torch before 1.6, which is not supported; load it with "
                              f"torch and save it again") from None  # fmt: skip
    except NotAStateDict:
        raise CheckpointError(f"{path} does not hold a state dict (tensors by name)") from None
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from None
    except Exception:  # damage is met with whatever it leads to: KeyError, struct.error, BadZipFile, …
        raise CheckpointError(f"{path} is damaged or incomplete; download or make it again") from None


def slabs(start: int, stop: int, row_bytes: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cut rows ``start … stop-1`` into runs of about ``SLAB_BYTES``, each a multiple of ``multiple`` rows long."""
    step = max(1, SLAB_BYTES // (row_bytes * multiple)) * multiple
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


class ShardedTensors:
    """Whole tensors, read slab by slab from the files that each hold a region of them.

    Args:
        files: the files of ranks 0, 1, … in order.
        shards: their state dicts, in the same order.
        regions: for each tensor, the region that each rank holds; ranks may hold the same region.

    Raises:
        CheckpointError: a tensor that a file lacks, or that has another shape than its region.
    """

    def __init__(
        self,
        files: Sequence[Path],
        shards: Sequence[Mapping[str, torch.Tensor]],
        regions: Mapping[str, Sequence[Region]],
    ) -> None:
        self._files, self._shards, self._regions = files, shards, regions
        for name, held in regions.items():
            for file, shard, region in zip(files, shards, held, strict=True):
                if name not in shard:
                    raise CheckpointError(f"{file} lacks the tensor {name}; download or make it again")
                if tuple(shard[name].shape) != region_shape(region):
                    raise CheckpointError(
                        f"{file}: {name} has shape {tuple(shard[name].shape)}, but the hyperparameters and "
                        f"{len(files)} file(s) make it {region_shape(region)}; the files do not belong together"
                    )

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """The tensor ``name`` as consecutive slabs along its first dimension, in the files' dtype.

        Raises:
            CheckpointError: ranks that should hold the same values do not.
        """
        regions = self._regions[name]
        for start, stop in sorted({(region[0].start, region[0].stop) for region in regions}):
            holders = [rank for rank, region in enumerate(regions) if region[0].start == start]
            row = self._shards[holders[0]][name][0]
            row_bytes = row.numel() * row.element_size() * len(holders)
            for first, last in slabs(start, stop, row_bytes):
                yield self._slab(name, holders, first - start, last - start)

    def _slab(self, name: str, holders: Sequence[int], first: int, last: int) -> torch.Tensor:
        """Rows ``first … last-1`` of what ``holders`` have: side by side, and once where they hold the same."""
        pieces: dict[int, torch.Tensor] = {}
        for rank in holders:
            column = self._regions[name][rank][-1].start if len(self._regions[name][rank]) > 1 else 0
            piece = self._shards[rank][name][first:last]
            if column not in pieces:
                pieces[column] = piece
            elif not torch.equal(pieces[column], piece):
                raise CheckpointError(
                    f"{self._files[rank]}: {name} should equal the one in {self._files[holders[0]].name} but does not; "
                    "the files do not belong together"
                )
        return torch.cat([pieces[column] for column in sorted(pieces)], dim=-1) if len(pieces) > 1 else pieces[0]
