"""How a pipeline is fed with the data of a recipe: calls, wirings, and where its samples come from."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from surgery.data import Data, Generated, Images, Latents, Videos, read_images, read_latents, read_prompts, read_videos
from surgery.data.buckets import Size
from surgery.data.images import Pictured
from surgery.data.pictures import Pictures
from surgery.errors import RecipeError, WiringError
from surgery.files import write_json
from surgery.parallel.group import by_first
from surgery.pipelines.calls import Calls, calls_of
from surgery.pipelines.encode import Encoder, encoder_of
from surgery.pipelines.known import require_known
from surgery.pipelines.load import call_of
from surgery.pipelines.probe import measure
from surgery.pipelines.process import process_of
from surgery.pipelines.sources import GeneratedSamples, Holder, LatentSamples, PictureSamples
from surgery.pipelines.trajectories import TrajectorySamples
from surgery.pipelines.wiring import Wiring
from surgery.progress import Progress
from surgery.store import InMemory, Source, Store, fill, filled

FEED, WIRINGS, SAMPLES = "feed.json", "wirings", "samples"
STEPS = 2
"""Of calls that are made for their conditions alone."""


@dataclass(frozen=True)
class Recorded:
    """That the samples are forwards of the teacher, see `surgery.pipelines.trajectories`.

    Attributes:
        model: name of the component whose forwards these are.
        forwards: of each run.
        why: a line that says so.
    """

    model: str
    forwards: int
    why: str


@dataclass(frozen=True)
class Feed:
    """Samples for a pipeline's denoiser, and how it takes them.

    Attributes:
        calls: of the pipeline, for samples of its own.
        wirings: one for each size of the latents, that of most samples first; none where forwards are recorded.
        samples: made when they are asked for, or there already; see `surgery.pipelines.sources.fed_by`.
        recorded: whose forwards are recorded; None if the pipeline is wired.
    """

    calls: Calls
    wirings: tuple[Wiring, ...]
    samples: Source | Store | InMemory
    recorded: Recorded | None = None

    @property
    def model(self) -> str:
        """Name of the component that is fed: of several experts, the one for the noisiest positions."""
        if self.recorded is not None:
            return self.recorded.model
        return self.wirings[0].model_at(0, self.wirings[0].conditional)

    def to(self, device: str) -> Feed:
        """The same with its wirings on another device."""
        return replace(self, wirings=tuple(wiring.to(device) for wiring in self.wirings))

    def stored(self, folder: Path, identity: Mapping[str, str], progress: Progress) -> Feed:
        """The same with all samples made and kept in `folder`, beside all else, unless they are made already.

        Raises:
            ArtifactError, SurgeryError: see `surgery.store.fill`.
        """
        if isinstance(self.samples, Store | InMemory):
            return self
        by_first(partial(self._save, folder))
        return replace(self, samples=fill(folder / SAMPLES, identity, self.samples, progress))

    def _save(self, folder: Path) -> None:
        """Keep all but the samples."""
        for number, wiring in enumerate(self.wirings):
            wiring.save(folder / WIRINGS / str(number))
        recorded = None if self.recorded is None else asdict(self.recorded)
        content = {"wirings": len(self.wirings), "recorded": recorded, "calls": asdict(self.calls)}
        write_json(folder / FEED, content)


def stored_feed(folder: Path, identity: Mapping[str, str]) -> Feed | None:
    """What `Feed.stored` kept in `folder`; None if there is nothing yet, or not all of it.

    Raises:
        ArtifactError: the samples are damaged, or made from something else.
        WiringError: a wiring is damaged.
    """
    samples = filled(folder / SAMPLES, identity)
    if samples is None:
        return None
    try:
        content = json.loads((folder / FEED).read_text())
        calls = Calls(**{**content["calls"], "prompts": tuple(content["calls"]["prompts"])})
        wirings = tuple(Wiring.load(folder / WIRINGS / str(number)) for number in range(content["wirings"]))
        recorded = None if content["recorded"] is None else Recorded(**content["recorded"])
    except WiringError as error:
        raise WiringError(f"{error}: delete {folder}, and make it again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise WiringError(f"{folder / FEED}: cannot be read ({why}); delete {folder}, and make it again") from error
    return Feed(calls, wirings, samples, recorded)


def identity_of(data: Data, seed: int) -> dict[str, str]:
    """What tells the samples of `data` from others besides the pipeline: digests by what they are of."""
    plain = data.model_dump(mode="json", exclude={"folder", "path"})
    if isinstance(data, Generated):
        return {"data": _sha(plain, read_prompts(data), seed)}
    source = read_latents(data) if isinstance(data, Latents) else pictures_of(data, (1, 1))
    return {"data": _sha(plain), **source.identity()}


def _sha(*plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def feed_of(data: Data, holder: Holder, seed: int) -> Feed:
    """Find out how the pipeline is fed with `data`.

    Args:
        data: of a recipe.
        holder: of the pipeline.
        seed: of what is made.

    Raises:
        RecipeError: there are no such data, or they do not fit the pipeline.
        WiringError: the pipeline cannot be wired, or does not encode.
    """
    if isinstance(data, Generated):
        return _from_itself(data, holder, seed)
    return _from_latents(data, holder) if isinstance(data, Latents) else _from_pictures(data, holder)


def _from_itself(data: Generated, holder: Holder, seed: int) -> Feed:
    calls = calls_of(holder.pipeline, data.call, read_prompts(data), data.steps)
    try:
        wiring = _wired(holder.pipeline, calls(0))
    except WiringError as error:
        try:
            samples = TrajectorySamples(holder, calls, data.samples, seed)
        except Exception:  # the pipeline does not run at all
            raise error from None
        why = f"{error}: the teacher's own forwards are recorded, and it is the only target"
        return Feed(calls, (), samples, Recorded(samples.model, samples.forwards, why))
    return Feed(calls, (wiring,), GeneratedSamples(holder, calls, wiring, data.samples, seed))


def _from_latents(data: Latents, holder: Holder) -> Feed:
    rows, pipeline = read_latents(data), holder.pipeline
    calls = calls_of(pipeline, {**call_of(pipeline), **data.call}, (), STEPS)
    wiring = _wired(pipeline, calls(0))
    samples = LatentSamples(rows, wiring)
    require_known(pipeline, wiring, (samples[number] for number in sorted(rows.extremes())))
    return Feed(calls, (wiring,), samples)


def _from_pictures(data: Data, holder: Holder) -> Feed:
    pictures, pipeline = pictures_of(data, (1, 1)), holder.pipeline
    assert isinstance(data, Pictured)
    calls = calls_of(pipeline, data.call, pictures.prompts(), STEPS)
    if any(entry.label is not None for entry in pictures.entries) and not calls.labels:
        raise RecipeError(f"data: {data.folder} has a folder for each class, and {type(pipeline).__name__} takes texts")
    if data.size is None:
        sized = [_measured(pipeline, calls, {})]
        pictures = pictures_of(data, _size_of(sized[0][2]))
    else:
        sizes = pictures.sizes()
        sized = [_measured(pipeline, calls, _asking(pipeline, size)) for size in sizes]
        for size, (_, _, encoder) in zip(sizes, sized, strict=True):
            _require_size(pipeline, size, _size_of(encoder))
    for _, _, encoder in sized:
        _require_frames(data, pipeline, encoder)
    first = replace(calls, call={**calls.call, **sized[0][0]})
    return Feed(first, tuple(wiring for _, wiring, _ in sized), PictureSamples(holder, pictures, calls, sized))


def pictures_of(data: Data, own: Size) -> Pictures:
    """The pictures in a folder; `own` is the pipeline's height and width.

    Raises:
        RecipeError: there is none, or captions are missing.
    """
    if isinstance(data, Videos):
        return read_videos(data, own)
    if isinstance(data, Images):
        return read_images(data, own)
    raise RecipeError(f"data: a pipeline is not trained on {type(data).__name__}")


def _wired(pipeline: Any, call: Mapping[str, Any]) -> Wiring:
    """The wiring, if the process of its scheduler is known as well."""
    wiring = measure(pipeline, call).to(pipeline.device)
    process_of(wiring.schedule)
    return wiring


def _measured(pipeline: Any, calls: Calls, keywords: Mapping[str, Any]) -> tuple[Mapping[str, Any], Wiring, Encoder]:
    call = calls(0, **keywords)
    wiring = _wired(pipeline, call)
    return keywords, wiring, encoder_of(pipeline, call, wiring.shape)


def _asking(pipeline: Any, size: Size) -> dict[str, int]:
    """The keywords that ask for a height and width."""
    known = inspect.signature(pipeline.__call__).parameters
    if not {"height", "width"} <= known.keys():
        raise RecipeError(f"data.size: {type(pipeline).__name__} has one size only; leave `size` out")
    return {"height": size[0], "width": size[1]}


def _size_of(encoder: Encoder) -> Size:
    return encoder.pixels[-2], encoder.pixels[-1]


def _require_size(pipeline: Any, asked: Size, made: Size) -> None:
    if made != asked:
        found, wanted = ("x".join(map(str, size)) for size in (made, asked))
        raise RecipeError(
            f"data.size: {type(pipeline).__name__} makes {found} where {wanted} is asked for; choose another size or "
            "step, or put into data.call what keeps it from choosing sizes itself"
        )


def _require_frames(data: Data, pipeline: Any, encoder: Encoder) -> None:
    frames = encoder.pixels[1] if len(encoder.pixels) == 4 else 1
    wanted = data.frames if isinstance(data, Videos) else 1
    if frames != wanted:
        raise RecipeError(
            f"data: {type(pipeline).__name__} makes {frames} frames, and data of {wanted} are given; put its keyword for "
            "their number into data.call"
        )
