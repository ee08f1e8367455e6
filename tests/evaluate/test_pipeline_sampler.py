"""Samples of a pipeline are those of its own calls, joined where that makes no difference."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import RecipeError
from surgery.evaluate.pipeline_sampler import PipelineSampler
from surgery.evaluate.sampling import Sampling
from surgery.pipelines.calls import Calls
from surgery.pipelines.load import LoadedPipeline
from tests.nightly import examples
from tests.pipelines.tiny import PIPELINES

PROMPTS = {"class_labels": (3, 1, 4), "prompt": ("a cat", "two birds", "a house")}


@cache
def sampler(name: str) -> tuple[PipelineSampler, list[Any]]:
    """Of a tiny pipeline, and what it is called with from then on."""
    tiny = next(tiny for tiny in PIPELINES if tiny.name == name)
    pipeline, asked = tiny.build(), list[Any]()
    keyword = next(key for key in PROMPTS if key in tiny.call)
    call = {key: value for key, value in tiny.call.items() if key != keyword}
    calls = Calls(call, PROMPTS[keyword], keyword, keyword == "class_labels", 2)
    real = type(pipeline)

    class Noting(real):  # type: ignore[misc, valid-type]
        __call__ = lambda self, *args, **kwargs: asked.append(kwargs) or real.__call__(self, *args, **kwargs)  # noqa: E731

    Noting.__call__.__signature__ = inspect.signature(real.__call__)  # type: ignore[attr-defined]
    pipeline.__class__ = Noting
    return PipelineSampler(LoadedPipeline(pipeline), "transformer", calls), asked


def fresh(name: str) -> tuple[PipelineSampler, list[Any]]:
    """The same, as at the start of a run."""
    drawer, asked = sampler(name)
    asked.clear()
    return replace(drawer), asked


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
@examples(6)
def test_together_samples_are_those_that_they_are_alone(count, size, seed):
    drawer, asked = sampler("DiTPipeline")
    model = drawer.holder.pipeline.transformer
    done: list[int] = []
    asked.clear()
    together = drawer.draw(model, count, Sampling(steps=2, batch_size=size), seed, done.append)
    assert max(len(call["class_labels"]) for call in asked) == min(size, count)
    assert (sum(done), max(done)) == (count, min(size, count))
    alone = drawer.draw(model, count, Sampling(steps=2, batch_size=1), seed, done.append)
    assert together.latents.shape == alone.latents.shape
    torch.testing.assert_close(together.latents, alone.latents, atol=1e-3, rtol=1e-3)
    assert len(together.pictures) == count


def test_samples_that_do_not_start_alike_together_are_drawn_one_by_one():
    drawer, asked = fresh("DiTPipeline")
    pipeline, real = drawer.holder.pipeline, drawer.holder.pipeline.transformer.forward
    pipeline.transformer.forward = lambda hidden_states, **kwargs: real(hidden_states * len(hidden_states), **kwargs)
    try:
        for count in (1, 2, 2):
            drawer.draw(pipeline.transformer, count, Sampling(steps=2), 0, lambda _: None)
    finally:
        del pipeline.transformer.forward
    # A single one needs no trial; then it is tried with two and each alone, once in a run.
    assert [len(call["class_labels"]) for call in asked] == [1, 2, 1, 1, 1, 1, 1, 1]


def test_texts_are_joined_too_and_a_video_has_one_picture():
    drawer, asked = sampler("WanPipeline")
    asked.clear()
    drawn = drawer.draw(drawer.holder.pipeline.transformer, 3, Sampling(steps=2), 0, lambda _: None)
    assert len(drawn.pictures) == len(drawn.latents) == 3
    assert asked[-1]["prompt"] == list(PROMPTS["prompt"])
    assert drawer.prompts(4) == ["a cat", "two birds", "a house", "a cat"]


def test_guidance_is_the_pipelines_keyword():
    drawer, asked = sampler("DiTPipeline")
    asked.clear()
    settings = Sampling(steps=2, guidance=2.5)
    drawer.require(settings)
    drawer.draw(drawer.holder.pipeline.transformer, 1, settings, 0, lambda _: None)
    assert asked[-1]["guidance_scale"] == 2.5

    class Unguided:
        def __call__(self, prompt: str) -> None:
            """Takes no guidance."""

    other = PipelineSampler(SimpleNamespace(pipeline=Unguided()), "transformer", drawer.calls)  # type: ignore[arg-type]
    other.require(Sampling())
    with pytest.raises(RecipeError, match=r"evaluate\.guidance: Unguided has no guidance_scale; leave it out"):
        other.require(settings)
