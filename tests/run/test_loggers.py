"""Loggers get every figure of a run under one set of names; a missing package is said before the run starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

import surgery
from surgery.cli import main
from surgery.errors import RecipeError
from surgery.evaluate.results import StageMetrics
from surgery.operators import HyenaX
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rules import replace_attention
from surgery.run.loggers import LOGGERS, logger_of, require_logger
from surgery.training.record import LossRecord

RECORDS = [
    LossRecord("distil", 1, 2.5, {"a.b": 1.5, "c": 1.0}),
    LossRecord("distil", 2, 2.0, {"a.b": 1.0, "c": 1.0}, 1.75),
    LossRecord("finetune", 1, 0.5),
]
STAGE = StageMetrics.model_validate({"stage": "teacher", "seconds": 1.0, "frechet": 2.0, "none": None})
FIGURES = {
    "distil/loss", "distil/sites/a.b", "distil/sites/c", "distil/held_out", "finetune/loss", "teacher/frechet",
    "teacher/seconds",
}  # fmt: skip


class FakeRun:
    """Notes what wandb and trackio are told."""

    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.axes, self.ended = options, [], {}, False
        self.summary: dict[str, float] = {}

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: Mapping[str, float]) -> None:
        self.logged.append(dict(values))

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def fakes(monkeypatch):
    """The runs that fake modules in the place of wandb and trackio have begun."""
    runs: list[FakeRun] = []

    def init(**options):
        runs.append(FakeRun(**options))
        return runs[-1]

    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.init = init
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return runs


def tell(name, folder):
    (logger,) = logger_of(name, folder, {"seed": 3})
    for record in RECORDS:
        logger.loss(record)
    logger.stage(STAGE)
    logger.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_figures_go_to_the_run_that_was_begun(name, fakes, tmp_path):
    tell(name, tmp_path / "my-run")
    (run,) = fakes
    assert (run.options["project"], run.options["name"]) == ("surgery", "my-run")
    assert run.options["config"] == {"seed": 3}
    assert run.options["resume"] == "allow"
    assert run.logged[1] == {
        "distil/step": 2, "distil/loss": 2.0, "distil/sites/a.b": 1.0, "distil/sites/c": 1.0, "distil/held_out": 1.75,
    }  # fmt: skip
    assert {key for values in (*run.logged, run.summary) for key in values} - {
        "distil/step",
        "finetune/step",
    } == FIGURES
    assert run.ended


def test_a_resumed_run_of_wandb_is_the_same(fakes, tmp_path):
    for folder in ("a", "a", "b"):
        tell("wandb", tmp_path / folder)
    first, again, other = (run.options["id"] for run in fakes)
    assert first == again != other
    assert fakes[0].axes == {"distil/*": "distil/step", "finetune/*": "finetune/step"}


def test_tensorboard_reads_back_what_was_written(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell("tensorboard", tmp_path)
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == FIGURES
    assert [(each.step, each.value) for each in read.Scalars("distil/loss")] == [(1, 2.5), (2, 2.0)]


def test_a_whole_run_tells_its_logger_everything(fakes, tiny_dit, tmp_path):
    steps = {"steps": 2, "batch_size": 4, "warmup": 0}
    rules = [replace_attention(HyenaX(kernel=4))]
    recipe = Recipe(model=str(tiny_dit), rules=rules, distil=Distil(**steps), finetune=Finetune(**steps), evaluate=None)
    surgery.apply(recipe, tmp_path / "run", log="trackio")
    (run,) = fakes
    keys = {key for values in run.logged for key in values}
    assert {"distil/loss", "finetune/loss", "teacher/params", "finetuned/params"} <= keys
    assert [values["distil/step"] for values in run.logged if "distil/step" in values] == [1, 2]
    assert run.ended


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_one_line_before_anything_is_written(name, write_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("surgery.run.loggers.find_spec", lambda _: None)
    assert main(["apply", str(write_recipe()), "--out", str(tmp_path / "run"), "--log", name]) == 2
    err = capsys.readouterr().err
    assert err == f"surgery: --log {name}: {name} is not installed; use pip install 'surgery[{name}]'\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_one_line():
    with pytest.raises(RecipeError, match=r"--log wand: no such logger, did you mean 'wandb'\?"):
        require_logger("wand")
    require_logger(None)
