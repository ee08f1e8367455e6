"""Laws of wiring: what is measured is what the pipeline's own code does, or the pipeline is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import WiringError
from surgery.pipelines import Condition, Wiring, measure
from surgery.pipelines.collate import collate
from surgery.pipelines.encode import encoder_of
from surgery.pipelines.record import sample
from surgery.pipelines.tree import leaves, same
from tests.pipelines.rows import outputs_of
from tests.pipelines.synthetic import STEPS, Synthetic
from tests.pipelines.traits import BAD, Traits, traits

CALL = {"prompt": "a cat"}
some = settings(max_examples=25, deadline=None)


def same_arguments(a: dict[str, Any], b: dict[str, Any]) -> bool:
    a, b = leaves(a), leaves(b)
    return a.keys() == b.keys() and all(same(a[path], b[path]) for path in a)


def own_calls(pipeline: Synthetic, wiring: Wiring, z: torch.Tensor, position: int, prompt: str) -> list[dict[str, Any]]:
    pipeline.scheduler.set_timesteps(STEPS)
    z = z if pipeline.traits.wide_latents else z.to(pipeline.traits.dtype)
    return pipeline.calls(z[None], pipeline.scheduler.timesteps[position], pipeline.texts(prompt))


@some
@given(traits(), st.integers(0, STEPS - 1), st.integers(0, 2**31))
def test_a_wiring_gives_the_arguments_that_the_pipeline_gives(drawn: Traits, position: int, seed: int) -> None:
    pipeline = Synthetic(drawn)
    wiring = measure(pipeline, CALL)
    z = torch.randn(wiring.shape, generator=torch.Generator().manual_seed(seed)).to(wiring.dtype)
    made = sample(pipeline, {"prompt": "dogs", "num_inference_steps": 3}, wiring).conditions
    given = [wiring.arguments_of(z, position, Condition(branch, arguments)) for branch, arguments in enumerate(made)]
    own = own_calls(pipeline, wiring, z, position, "dogs")
    if drawn.guidance == "rows":
        given = [wiring.batching.join(given)]
    assert all(same_arguments(a, b) for a, b in zip(given, own, strict=True))


@some
@given(traits())
def test_predictions_are_read_as_the_pipeline_reads_them(drawn: Traits) -> None:
    pipeline = Synthetic(drawn)
    wiring = measure(pipeline, CALL)
    z = torch.randn(wiring.shape).to(wiring.dtype)
    calls = own_calls(pipeline, wiring, z, 7, "a cat")
    outs = [pipeline.components["transformer"](**call) for call in calls]
    own = [row for out in outs for row in pipeline.rows(out[0])]
    rows = len(own) // len(outs)
    read = [row[None] for out in outs for row in wiring.model_output(out, rows)]
    assert all(torch.equal(a, b) for a, b in zip(read, own, strict=True))
    assert wiring.branches[wiring.conditional].weight == pytest.approx(max(b.weight for b in wiring.branches))
    assert wiring.conditional == (1 if drawn.guidance and not drawn.conditional_first else 0)
    if wiring.linear:
        whole = pipeline.model_output(own, z, pipeline.scheduler.timesteps[7])
        assert torch.allclose(
            wiring.guided(own), whole, atol=32 * torch.finfo(whole.dtype).eps * float(own[0].abs().max())
        )
    assert wiring.linear == (drawn.guided == "sum")


@some
@given(traits(), st.integers(1, 5), st.integers(0, 2**31))
def test_a_batch_gives_what_its_samples_give_alone(drawn: Traits, count: int, seed: int) -> None:
    pipeline, generator = Synthetic(drawn), torch.Generator().manual_seed(seed)
    wiring = measure(pipeline, CALL)
    z = torch.randn(count, *wiring.shape, generator=generator).to(wiring.dtype)
    positions = torch.randint(STEPS, (count,), generator=generator)
    prompts = [["a cat", "dog"][int(torch.randint(2, (1,), generator=generator))] for _ in range(count)]
    samples = [sample(pipeline, {"prompt": prompt, "num_inference_steps": 2}, wiring) for prompt in prompts]
    conditions = [Condition(wiring.conditional, s.conditions[wiring.conditional]) for s in samples]

    def outputs(rows: slice) -> torch.Tensor:
        batches = collate(wiring, z[rows], positions[rows], conditions[rows])
        return outputs_of(wiring, batches, [pipeline.components[b.model](**b.arguments) for b in batches])

    alone = torch.cat([outputs(slice(row, row + 1)) for row in range(count)])
    assert torch.equal(outputs(slice(None)), alone)
    told_apart = drawn.guidance == "rows" or not drawn.single
    if told_apart and drawn.time not in ("number", "shared") and len({*prompts}) == 1:
        assert len(collate(wiring, z, positions, conditions)) == 1


@some
@given(traits())
def test_the_way_to_the_autoencoder_is_inverted(drawn: Traits) -> None:
    pipeline = Synthetic(drawn)
    shape = measure(pipeline, CALL).shape
    encoder = encoder_of(pipeline, CALL, shape)
    latents = torch.randn(3, *shape).to(drawn.dtype)
    decoded = pipeline.unpacked(latents) / 0.5 + 0.25
    again = encoder.encode(pipeline, decoded)
    assert torch.allclose(again, latents.float(), atol=4 * torch.finfo(drawn.dtype).eps * float(decoded.abs().max()))


@settings(max_examples=60, deadline=None)
@given(traits(st.sampled_from(sorted(BAD))))
def test_what_is_no_wiring_is_refused_by_name(drawn: Traits) -> None:
    with pytest.raises(WiringError, match=BAD[drawn.bad or ""]):
        measure(Synthetic(drawn), CALL)


@settings(max_examples=10, deadline=None)
@given(traits(), st.integers(2, 4))
def test_a_call_for_several_samples_is_refused(drawn: Traits, count: int) -> None:
    drawn = replace(drawn, single=False, guided="sum")
    with pytest.raises(WiringError, match=f"the call makes {count} samples: measure with one"):
        measure(Synthetic(drawn), {**CALL, "num_images_per_prompt": count})


@some
@given(traits(st.none() | st.sampled_from(sorted(BAD))))
def test_a_pipeline_is_left_as_it_was(drawn: Traits) -> None:
    pipeline, generator = Synthetic(drawn), torch.Generator().manual_seed(5)
    owners = [pipeline, pipeline.scheduler, *pipeline.components.values()]
    before = [dict(vars(owner)) for owner in owners]
    states = generator.get_state(), torch.get_rng_state()
    try:
        measure(pipeline, {**CALL, "generator": generator})
    except WiringError:
        assert drawn.bad
    assert [dict(vars(owner)) for owner in owners] == before
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


@settings(max_examples=10, deadline=None)
@given(traits())
def test_a_saved_wiring_is_the_same(tmp_path_factory: pytest.TempPathFactory, drawn: Traits) -> None:
    folder: Path = tmp_path_factory.mktemp("wiring")
    wiring = measure(Synthetic(drawn), CALL)
    wiring.save(folder)
    loaded = Wiring.load(folder)
    z = torch.randn(wiring.shape)
    for one, other in zip(wiring.conditions, loaded.conditions, strict=True):
        for position in (0, STEPS // 2, STEPS - 1):
            a, b = wiring.arguments_of(z, position, one), loaded.arguments_of(z, position, other)
            assert same_arguments(a, b)


@pytest.mark.parametrize("guidance", ["rows", "calls"])
def test_guidance_may_add_up_over_the_steps(guidance: str) -> None:
    assert not measure(Synthetic(Traits(guidance=guidance, guided="momentum")), CALL).linear


@pytest.mark.parametrize("guidance", ["", "calls"])
def test_an_object_may_be_made_anew_in_each_run(guidance: str) -> None:
    wiring = measure(Synthetic(Traits(guidance=guidance, cached=True)), CALL)
    assert wiring.batching.odd  # whose samples cannot be joined


def times_of(pipeline: Synthetic) -> set[str] | str:
    """The arguments that follow the time, or why the pipeline is refused."""
    try:
        return set(measure(pipeline, CALL).branches[0].times)
    except WiringError as error:
        return str(error)


def test_a_schedule_that_is_too_short_to_show_the_time_is_refused() -> None:
    found = {}
    for trained in range(6, 16):
        pipeline = Synthetic(Traits())
        pipeline.scheduler.register_to_config(num_train_timesteps=trained)
        found[trained] = times_of(pipeline)
    assert found[15] == {"timestep"}
    assert all(times == {"timestep"} or "steps" in times for times in found.values())
