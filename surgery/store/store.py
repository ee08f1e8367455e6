"""Reading a store."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.errors import ArtifactError
from surgery.store.manifest import read_manifest
from surgery.store.nested import put_together
from surgery.store.sample import Sample
from surgery.store.shard import open_shard

OPEN_ROWS = 2**16
"""So many rows at most stay mapped: to find one again takes longer than to copy a small one."""


class Store:
    """The samples in a folder that `fill` has filled, by number. Rows are read where they are asked for.

    Attributes:
        identity: what it was made from.
        skipped: of the samples of its source that could not be made, which and why.
        shapes: of the latents of each sample.
        contents: of each sample what its latents are, as a SHA-256; equal latents have an equal one.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open it.

        Raises:
            ArtifactError: a file is missing, truncated or altered, or the store is not full yet.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest.done < manifest.sources:
            raise ArtifactError(
                f"{folder}: holds {manifest.done:,} of {manifest.sources:,} samples; go on with filling it first"
            )
        self.identity = manifest.identity
        self._shards = [open_shard(folder, file) for file in manifest.shards]
        self.skipped = [reason for shard in self._shards for reason in shard.skipped]
        self._samples_up_to = list(accumulate(len(shard.samples) for shard in self._shards))
        self._rows_up_to = list(accumulate(len(shard.rows) for shard in self._shards))
        self._mapped = lru_cache(OPEN_ROWS)(self._map)
        latents = [sample[1] for shard in self._shards for sample in shard.samples]
        self.contents = [self._content(row) for row in latents]
        self.shapes = [self._shards[_place(self._rows_up_to, row)[0]].shape(self._content(row)) for row in latents]

    def __len__(self) -> int:
        return self._samples_up_to[-1] if self._samples_up_to else 0

    def __getitem__(self, number: int) -> Sample:
        """The sample; its tensors are copies, on the CPU.

        Raises:
            IndexError: there is none of that number, or the number is negative.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"no sample {number} in a store of {len(self)}")
        index, within = _place(self._samples_up_to, number)
        shard = self._shards[index]
        skeleton, *rows = shard.samples[within]
        conditions = put_together(json.loads(shard.skeletons[skeleton]), lambda n: self._row(rows[n]))
        return Sample(self._row(rows[0]), conditions)

    def outline(self, number: int) -> Any:
        """The conditions of a sample without their tensors, which need not be read for it; None stands for each."""
        index, within = _place(self._samples_up_to, number)
        shard = self._shards[index]
        return put_together(json.loads(shard.skeletons[shard.samples[within][0]]), lambda _: None)

    def _row(self, row: int) -> Tensor:
        return self._mapped(row).clone()  # what is mapped is one memory for all who ask

    def _map(self, row: int) -> Tensor:
        return self._shards[_place(self._rows_up_to, row)[0]].row(self._content(row))

    def _content(self, row: int) -> str:
        index, within = _place(self._rows_up_to, row)
        return self._shards[index].rows[within]


def _place(up_to: Sequence[int], number: int) -> tuple[int, int]:
    """In which shard something is, and its number there; `up_to` counts those in each shard and all before it."""
    shard = bisect_right(up_to, number)
    return shard, number - (up_to[shard - 1] if shard else 0)
