"""The shard that is being put together."""

from __future__ import annotations

import json

from torch import Tensor

from surgery.store.nested import take_apart
from surgery.store.sample import Sample
from surgery.store.shard import Contents, content_of


class Growing:
    """What goes into the next shard of a store.

    Attributes:
        contents: so far.
        last_latents: how many bytes the latents of the last sample took; 0 if it was skipped.
    """

    def __init__(self, contents: Contents, numbers: dict[str, int]) -> None:
        """Begin with `contents`; `numbers` are those of all rows in the store, by content."""
        self.contents, self.last_latents = contents, 0
        self._numbers = numbers

    def add(self, sample: Sample) -> None:
        """Take a sample.

        Raises:
            ArtifactError: it holds something that cannot be stored.
        """
        rows: list[int] = []

        def put(tensor: Tensor) -> int:
            rows.append(self._number(tensor))
            return len(rows) - 1

        take_apart(sample.latents, put, "latents")
        skeleton = json.dumps(take_apart(sample.conditions, put, "conditions"), separators=(",", ":"))
        self.contents.samples.append([self.contents.number(skeleton), *rows])
        self.contents.sources += 1
        self.last_latents = sample.latents.nbytes

    def skip(self, reason: str) -> None:
        """Note that a sample cannot be made."""
        self.contents.skipped.append(reason)
        self.contents.sources += 1
        self.last_latents = 0

    def next(self) -> Growing:
        """The shard after this one."""
        return Growing(Contents(), self._numbers)

    def _number(self, tensor: Tensor) -> int:
        """The number of the row that holds `tensor`, which is a new one if no row does."""
        content = content_of(tensor)
        if content not in self._numbers:
            self._numbers[content] = len(self._numbers)
            self.contents.add_row(content, tensor)
        return self._numbers[content]
