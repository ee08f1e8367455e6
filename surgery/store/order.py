"""In which order samples are visited, and which are held out: functions of the seed, without a state."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

HELD_OUT_SHARE = 20
"""At most one content in so many is held out."""


class Order:
    """Batches of samples from an endless row of permutations, one for each epoch.

    Along that row, each kind gathers its samples; once they fill a batch, its turn has come. So all batches are full, no
    two kinds meet in one, and each sample comes once an epoch. A batch may span epochs. The batch of a step depends on
    the seed and the step alone, so training that is resumed visits the same ones.
    """

    def __init__(self, kinds: Sequence[Hashable], batch_size: int, seed: int) -> None:
        """Set the order.

        Args:
            kinds: of each sample, what it must have in common with others of a batch, such as the shape of its latents.
            batch_size: samples in a batch.
            seed: of the permutations.
        """
        if not kinds:
            raise ValueError("there are no samples to order")
        buckets = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        self._bucket_of = torch.tensor([buckets[kind] for kind in kinds])
        self._sizes = torch.bincount(self._bucket_of).tolist()
        self._batch_size, self._seed = batch_size, seed
        self._epoch = lru_cache(maxsize=2)(self._lay_out)

    def batch(self, step: int) -> list[int]:
        """The numbers of the samples in the batch of a step, counted from 0."""
        most = (step + 1 + len(self._sizes)) * self._batch_size // len(self._bucket_of) + 1
        epoch = bisect_right(range(most + 1), step, key=self._batches_before) - 1
        bucket, number = self._epoch(epoch)[1][step - self._batches_before(epoch)]
        start, size = number * self._batch_size, self._sizes[bucket]
        epochs = range(start // size, (start + self._batch_size - 1) // size + 1)
        row = torch.cat([self._epoch(each)[0][bucket] for each in epochs])
        offset = start - epochs[0] * size
        return row[offset : offset + self._batch_size].tolist()

    def _batches_before(self, epoch: int) -> int:
        """How many batches are full before an epoch begins."""
        return sum(epoch * size // self._batch_size for size in self._sizes)

    def _lay_out(self, epoch: int) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Of an epoch, the samples of each bucket in their order, and bucket and number of each batch that gets full."""
        row = torch.randperm(len(self._bucket_of), generator=seeded(self._seed, "epoch", epoch))
        bucket_of, rows, turns = self._bucket_of[row], [], []
        for bucket, size in enumerate(self._sizes):
            places = (bucket_of == bucket).nonzero().flatten()
            rows.append(row[places])
            last = (self._batch_size - 1 - epoch * size) % self._batch_size  # of the first batch that gets full
            number = (epoch * size + last) // self._batch_size
            turns += [(place, bucket, number + i) for i, place in enumerate(places[last :: self._batch_size].tolist())]
        return rows, [(bucket, number) for _, bucket, number in sorted(turns)]


def held_out(contents: Sequence[str], most: int, seed: int) -> tuple[list[int], list[int]]:
    """Which samples are held out, and which are trained on.

    A content is held out with all samples that have it, so none of them is trained on. What is held out depends on the
    contents alone, not on their order; a smaller choice is part of a larger one.

    Args:
        contents: of each sample, such as `Store.contents`.
        most: how many contents are held out at most; one in `HELD_OUT_SHARE` is, if that is less.
        seed: of the choice.
    """
    distinct = sorted(set(contents), key=lambda content: hashlib.sha256(f"{seed}/{content}".encode()).digest())
    held = set(distinct[: min(most, len(distinct) // HELD_OUT_SHARE)])
    numbers = range(len(contents))
    return [i for i in numbers if contents[i] in held], [i for i in numbers if contents[i] not in held]


def seeded(*keys: int | str) -> torch.Generator:
    """A generator on the CPU whose stream depends on `keys` alone, for example (seed, stage, step)."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
