"""Pipelines that are not wired: the teacher's own forwards are recorded, and it is the only target."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.data import Generated, Images
from surgery.errors import RecipeError, WiringError
from surgery.evaluate.settings import Evaluate
from surgery.pipelines.calls import Calls
from surgery.pipelines.feed import Feed, Recorded
from surgery.recipe import Finetune
from surgery.run.subject import load_subject
from surgery.store import InMemory, Sample
from surgery.training.recorded import RecordedBatches, RecordedData
from surgery.training.source import predict
from tests.data.draw import write
from tests.nightly import examples
from tests.run.twins import SCHEDULE, STEPS, built, recipe
from tests.training.tiny import Interrupting


class Saying(Interrupting):
    def __init__(self) -> None:
        super().__init__(-1)
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """A pipeline whose scheduler scales its input by the time, which is no wiring."""
    folder, dit = tmp_path_factory.mktemp("scaled"), built("DiTPipeline")[0]
    diffusers.DiTPipeline(
        dit.transformer, dit.vae, diffusers.EulerDiscreteScheduler(num_train_timesteps=SCHEDULE)
    ).save_pretrained(folder)
    return folder


def generated(samples: int = 21) -> Generated:
    return Generated(prompts=(1, 2), samples=samples, steps=3)


def test_a_student_learns_from_recorded_forwards_and_the_run_says_so(scaled, tmp_path):
    imitating = Finetune(**STEPS, lr=1e-3, ema_decay=0.0, target="teacher")
    asked = recipe(scaled, generated(), finetune=imitating, evaluate=Evaluate(samples=2, steps=3))
    progress = Saying()
    run = surgery.apply(asked, tmp_path / "run", progress=progress)
    assert [line for line in progress.said if "the teacher's own forwards are recorded" in line]
    stages = {stage.stage: stage.values for stage in run.metrics.stages}
    assert stages["teacher"]["held_out_loss"] < 1e-9 < stages["rewritten"]["held_out_loss"]
    losses = json.loads((tmp_path / "run" / "losses.json").read_text())
    assert losses[5]["loss"] < losses[0]["loss"]
    again = surgery.apply(asked, tmp_path / "run", resume=True)
    assert again.metrics == run.metrics


def test_data_as_a_target_and_data_to_encode_are_refused(scaled, tmp_path):
    with pytest.raises(RecipeError, match=r"finetune\.target: must be 'teacher'; .* the teacher's own forwards"):
        surgery.apply(recipe(scaled, generated(1), evaluate=None), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    folder = write(tmp_path / "classes", "a/0.png", "b/0.png")
    with pytest.raises(WiringError, match="record trajectories instead"):
        load_subject(str(scaled), Images(folder=str(folder)), 0)


def test_each_forward_is_what_the_model_gives(scaled):
    subject = load_subject(str(scaled), generated(2), 0)
    samples = subject.data.feed.samples
    assert len(samples) == 6
    for number in (0, 5, 2):  # in any order
        with torch.no_grad():
            assert torch.equal(predict(subject.teacher.model, samples[number].conditions), samples[number].latents)
    assert not torch.equal(samples[0].latents, samples[3].latents)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
@examples(30)
def test_runs_are_held_out_as_a_whole(runs, each, size, seed):
    samples = [Sample(torch.tensor([float(number)]), {}) for number in range(runs * each)]
    data = RecordedData(Feed(Calls({}, (), "", False, 1), (), InMemory(samples), Recorded("", each, "")), {})
    batches = data.source(torch.nn.Linear(1, 1), stage="x", batch_size=size, seed=seed)
    assert isinstance(batches, RecordedBatches)
    steps = range(-(-runs * each // size) + 1)
    trained = {int(forward.target) // each for step in steps for forward in batches.training(step)}
    held = {int(forward.target) // each for forward in batches.held_out()}
    assert len(data) == runs
    assert held.isdisjoint(trained)
    assert bool(held) == (runs >= 20)
    assert sum(forward.share for forward in batches.training(0)) == pytest.approx(1)
