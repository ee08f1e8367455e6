"""Samples for a pipeline's denoiser: made by the pipeline itself, encoded from pictures, or read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from surgery.data.generated import Prompt
from surgery.data.pictures import Pictures
from surgery.errors import RecipeError
from surgery.pipelines.calls import Calls
from surgery.pipelines.encode import Encoder
from surgery.pipelines.parts import Condition
from surgery.pipelines.record import Conditioning, sample
from surgery.pipelines.tree import Arguments, moved
from surgery.pipelines.wiring import Wiring
from surgery.store.order import seeded
from surgery.store.sample import Sample, Source, require_finite

CONDITIONS_KEPT = 64


class Holder(Protocol):
    """Something that has a pipeline in memory while it is needed."""

    @property
    def pipeline(self) -> Any:
        """The pipeline."""

    def release(self) -> None:
        """Let go of what is not needed now."""


def fed_by(latents: Tensor, conditions: Sequence[Arguments], wiring: int = 0) -> Sample:
    """A sample for a denoiser.

    Args:
        latents: x0, as the scheduler has them.
        conditions: by branch of guidance, see `Condition`.
        wiring: number of the wiring that it belongs to, of several for latents of different sizes.
    """
    return Sample(latents, {"wiring": wiring, "branches": [*conditions]})


def wiring_of(conditions: Any) -> int:
    """The number of the wiring that a sample with these conditions, or their outline, belongs to."""
    number: int = conditions["wiring"]
    return number


def condition_of(sample: Sample, branch: int) -> Condition:
    """What a branch is given for a sample."""
    return Condition(branch, sample.conditions["branches"][branch])


class GeneratedSamples:
    """Samples that the pipeline makes, each when it is asked for: a source for a store."""

    def __init__(self, holder: Holder, calls: Calls, wiring: Wiring, samples: int, seed: int) -> None:
        self._holder, self._calls, self._wiring, self._samples, self._seed = holder, calls, wiring, samples, seed

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, number: int) -> Sample:
        """The sample of a number, on the CPU.

        Raises:
            RecipeError: its latents are not finite.
            WiringError: the prompt is not wired as that which was measured.
        """
        generator = seeded(self._seed, "generated", number)
        made = sample(self._holder.pipeline, self._calls(number, generator=generator), self._wiring)
        return require_finite(fed_by(made.latents, made.conditions), f"sample {number} of the pipeline's own")


class PictureSamples:
    """Images or videos, encoded, with what the pipeline makes of their captions: a source for a store."""

    def __init__(
        self,
        holder: Holder,
        pictures: Pictures,
        calls: Calls,
        sized: Sequence[tuple[Mapping[str, Any], Wiring, Encoder]],
    ) -> None:
        """Prepare for pictures of several sizes.

        Args:
            holder: of the pipeline.
            pictures: to encode.
            calls: makes a call of a caption or a label.
            sized: for each size, the keywords that ask for it, the wiring and the encoder.
        """
        self._holder, self._pictures, self._calls, self._sized = holder, pictures, calls, sized
        self._number = {encoder.pixels[-2:]: number for number, (_, _, encoder) in enumerate(sized)}
        self._conditions = lru_cache(CONDITIONS_KEPT)(self._made_of)
        self._conditioning = [Conditioning(wiring) for _, wiring, _ in sized]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, number: int) -> Sample:
        """The sample of a picture, on the CPU.

        Raises:
            Skipped: the file is no picture.
            RecipeError: it, or what the autoencoder makes of it, is not finite.
            WiringError: the autoencoder does not encode it, or its caption is not wired as the first one.
        """
        picture = self._pictures[number]
        size = self._number[tuple(picture.pixels.shape[-2:])]
        _, _, encoder = self._sized[size]
        pixels = picture.pixels.reshape(1, *encoder.pixels)
        conditions = self._conditions(size, picture.text if picture.label is None else picture.label)
        latents = encoder.encode(self._holder.pipeline, pixels)[0]
        return require_finite(fed_by(latents, conditions, size), picture.name)

    def _made_of(self, size: int, prompt: Prompt | None) -> list[Arguments]:
        keywords, _, _ = self._sized[size]
        return self._conditioning[size](self._holder.pipeline, self._calls.of(prompt, **keywords))


class LatentSamples:
    """Latents from files; the conditions beside them take the place of those measured. A source for a store."""

    def __init__(self, rows: Source, wiring: Wiring) -> None:
        """Compare the first row with the wiring.

        Raises:
            RecipeError: a condition is no argument of the denoiser that counts samples, or has another shape.
        """
        self._rows, self._wiring = rows, wiring
        self._own = [moved(condition.arguments, "cpu") for condition in wiring.conditions]
        self[0]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Sample:
        row, wiring = self._rows[number], self._wiring
        if tuple(row.latents.shape) != wiring.shape:
            raise RecipeError(
                f"data: latents of shape {tuple(row.latents.shape)}, and those of {wiring.pipeline} are {wiring.shape}; "
                "put the keywords that ask for this size into data.call"
            )
        own = self._own[wiring.conditional]
        given = {name: self._as_given(name, value) for name, value in row.conditions.items()}
        conditions = [*self._own]
        conditions[wiring.conditional] = {**own, **given}
        return fed_by(row.latents, conditions)

    def _as_given(self, name: str, value: Tensor) -> Tensor:
        """A condition of one sample, as the pipeline gives it for one."""
        wiring = self._wiring
        dims, own, branch = wiring.batching.dims, self._own[wiring.conditional], wiring.branches[wiring.conditional]
        fitting = sorted(own.keys() & dims.keys() - branch.latents.keys() - branch.times.keys())
        if name not in fitting:
            known = ", ".join(fitting) or "none"
            raise RecipeError(f"data: {name!r} is no condition of {wiring.pipeline}'s denoiser, which takes {known}")
        given, shape = value.unsqueeze(dims[name]).to(own[name].dtype), own[name].shape
        if given.ndim != len(shape) or (value.is_floating_point() and given.shape[-1] != shape[-1]):
            expected = tuple(own[name].squeeze(dims[name]).shape)
            raise RecipeError(
                f"data: condition {name!r} has shape {tuple(value.shape)} in a row, the pipeline's own has {expected}"
            )
        return given
