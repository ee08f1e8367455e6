"""Samples that are few enough to stay in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgery.store.sample import Sample
from surgery.store.shard import content_of


class InMemory:
    """Samples that are there already, to be read as from a `Store`.

    Attributes:
        contents, shapes: as in `Store`.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self.contents = [content_of(sample.latents) for sample in samples]
        self.shapes = [tuple(sample.latents.shape) for sample in samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Sample:
        return self._samples[number]

    def outline(self, number: int) -> Any:
        """As in `Store`; the tensors stay, as they are at hand."""
        return self._samples[number].conditions
