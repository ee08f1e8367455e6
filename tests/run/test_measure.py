"""What a run measures is what its recipe asks for, and all of it is shown."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

import surgery
from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import HeldOutLoss, Metric, TeacherDistance
from surgery.evaluate.settings import Evaluate
from surgery.operators import HyenaX
from surgery.progress import SilentProgress
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention
from surgery.run.finished import bench_run, sample_run
from surgery.run.measure import Measuring
from surgery.run.prepare import metrics_for, open_recipe, prepare
from surgery.run.search import _judged
from surgery.store import InMemory
from tests.training import tiny
from tests.training.test_wired import wired


class Answer(Metric):
    """Whatever it is told to give."""

    kind: Literal["test_answer"] = "test_answer"
    title: ClassVar[str] = "answer"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    value: float | str = 42.0

    def compute(self, context: Context) -> float:
        return self.value  # type: ignore[return-value]


def recipe(model: Path, evaluate: Evaluate | None) -> Recipe:
    steps = {"steps": 1, "batch_size": 4, "warmup": 0}
    rules = (replace_attention(HyenaX(kernel=4), layers=every(2)),)
    return Recipe(model=str(model), rules=rules, distil=Distil(**steps), finetune=Finetune(**steps), evaluate=evaluate)


def test_nothing_to_judge_by_leaves_what_the_models_cost(tiny_dit, tmp_path):
    run = surgery.apply(recipe(tiny_dit, None), tmp_path / "run")
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert [list(stage) for stage in stages] == [["stage", "params", "flops", "latency_ms", "seconds"]] * 4
    assert not (tmp_path / "run" / "samples").exists()
    assert "FLOPs than the teacher" not in (page := (tmp_path / "run" / "report.html").read_text())
    assert "The finetuned student has" in page
    sample_run(tmp_path / "run", tmp_path / "s.png", 2, 0, SilentProgress())
    assert (tmp_path / "s.png").exists()
    again = surgery.apply(recipe(tiny_dit, None), tmp_path / "run", resume=True)
    assert again.metrics == run.metrics


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_none(value, tiny_dit):
    prepared = prepare(recipe(tiny_dit, Evaluate(metrics=[Answer.model_construct(value=value)])))
    measuring = Measuring(prepared, SilentProgress())
    stage = measuring.measure("teacher", measuring.context("teacher", prepared.teacher.model), 0.0)
    assert stage.values["test_answer"] is None
    assert "null" in stage.model_dump_json()


def test_a_metric_must_give_a_number(tiny_dit):
    prepared = prepare(recipe(tiny_dit, Evaluate(metrics=[Answer(value="many")])))
    measuring = Measuring(prepared, SilentProgress())
    with pytest.raises(SurgeryError, match="metric 'test_answer' gives a str"):
        measuring.measure("teacher", measuring.context("teacher", prepared.teacher.model), 0.0)


def test_the_teachers_samples_are_drawn_once_and_from_the_same_noise(tiny_dit):
    prepared = prepare(recipe(tiny_dit, Evaluate(metrics=[TeacherDistance()], samples=3, steps=2)))
    measuring = Measuring(prepared, SilentProgress())
    teacher, student = prepared.teacher.model, prepare(prepared.recipe).teacher.model
    first, second = measuring.context("teacher", teacher), measuring.context("rewritten", student)
    assert second.teacher_samples is first.samples is first.teacher_samples
    assert torch.equal(second.samples, first.samples)


def test_what_fits_the_data_is_measured_unless_a_recipe_says_otherwise():
    digits, other, few = tiny.data(), wired("DiTPipeline")[1], wired("DiTPipeline", 3)[1]
    metrics, samples = metrics_for(Evaluate(), digits)
    assert ([metric.name for metric in metrics], samples) == (["frechet", "accuracy"], 1000)
    assert metrics_for(Evaluate(), other) == ((HeldOutLoss(), TeacherDistance()), 16)
    assert metrics_for(Evaluate(metrics=[], samples=5), other) == ((), 5)
    with pytest.raises(RecipeError, match="evaluate: metric 'held_out_loss': of 3 samples none is held out"):
        metrics_for(Evaluate(metrics=[HeldOutLoss()]), few)


def test_a_search_does_not_choose_by_what_nothing_is_held_out_for(tiny_dit):
    opened = open_recipe(recipe(tiny_dit, Evaluate(metrics=[HeldOutLoss(), Answer()], samples=3, steps=2)))
    assert _judged(opened) == opened
    copies = InMemory(40 * [opened.data.feed.samples[0]])
    opened = replace(opened, data=replace(opened.data, feed=replace(opened.data.feed, samples=copies)))
    assert _judged(opened).metrics == (Answer(),)
    judged = _judged(replace(opened, metrics=(HeldOutLoss(),)))
    assert (judged.metrics, judged.samples) == ((TeacherDistance(),), 3)


def test_a_finished_run_is_used_from_any_folder(tiny_dit, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(tiny_dit, here / "models" / "dit")
    monkeypatch.chdir(here)
    surgery.apply(recipe(Path("models/dit"), None), "run")
    surgery.apply(recipe(Path("models/dit"), None), "run", resume=True)
    monkeypatch.chdir(elsewhere)
    sample_run(Path("../here/run"), Path("s.png"), 2, 0, SilentProgress())
    assert (elsewhere / "s.png").exists()
    assert bench_run(Path("../here/run")).keys() == {"1", "8"}
    assert Path.cwd() == elsewhere
    here.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    sample_run(Path("run"), Path("s.png"), 2, 0, SilentProgress())
