"""A probe is cheap: what is large is computed, copied and compared only where it may have changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.pipelines import measure
from surgery.pipelines.batching import Batching
from surgery.pipelines.tree import Lent, same
from tests.pipelines.synthetic import STEPS, Synthetic
from tests.pipelines.traits import Traits, traits

CALL = {"prompt": "a cat"}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), max_size=8))
def test_what_is_lent_is_as_it_was_made_whoever_writes_into_it(writes: list[bool]) -> None:
    made: list[dict[str, torch.Tensor]] = []

    def make() -> dict[str, torch.Tensor]:
        made.append({"x": torch.arange(3.0)})
        return made[-1]

    lent = Lent(make)
    for written in writes:
        got = lent()["x"]
        assert torch.equal(got, torch.arange(3.0))
        if written:
            got[1] += 1
    assert len(made) == min(len(writes), 1 + sum(writes[:-1]))


@settings(max_examples=10, deadline=None)
@given(traits())
def test_only_the_first_steps_cost_the_scheduler_more_than_an_element(drawn: Traits) -> None:
    pipeline, sizes = Synthetic(drawn), []
    step = pipeline.scheduler.step

    def counted(model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        sizes.append(sample.numel())
        return step(model_output, timestep, sample, return_dict=return_dict)

    pipeline.scheduler.step = counted
    measure(pipeline, CALL)
    assert len(sizes) > 2 * STEPS
    assert sum(size > 1 for size in sizes) <= 6


def test_latents_that_a_pipeline_writes_into_are_wired() -> None:
    class Writing(Synthetic):
        def arguments(self, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> dict[str, Any]:
            given = super().arguments(latents.mul_(2).clone(), t, text)
            latents.div_(2)
            return given

    wiring = measure(Writing(Traits(guidance="calls", size=(2, 3, 4))), CALL)
    affine = wiring.branches[0].latents["hidden_states"]
    assert affine.index.tolist() == list(range(24))
    assert float(affine.scale) == 2


@pytest.mark.parametrize("rows", [1, 2])
def test_a_part_of_a_batch_is_the_same_object_or_memory(rows: int) -> None:
    batch, batching = {"x": torch.rand(2, 3)}, Batching({"x": 0}, frozenset())
    first, second = (batching.split(batch, rows)[-1]["x"] for _ in range(2))
    assert same(first, second)
    second[:] = float("nan")  # equal to nothing by value
    assert same(first, second)
