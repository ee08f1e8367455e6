"""Whole runs of several processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException

import surgery
from surgery.cli import main
from surgery.cli.processes import starts_processes
from surgery.errors import RecipeError
from surgery.evaluate.metrics import HeldOutLoss, TeacherDistance
from surgery.evaluate.settings import Evaluate
from surgery.parallel.group import rank
from surgery.recipe import LoRA, load_recipe
from surgery.testing import profiles
from tests.parallel.test_training import Killing
from tests.parallel.world import in_processes
from tests.run.test_killed import files

nightly = pytest.mark.skipif(profiles.chosen() != "nightly", reason="takes long: make nightly")
FIGURES = ("held_out_loss", "teacher_distance", "params", "flops")


def figures(run: Path) -> list[list[float]]:
    losses = json.loads((run / "losses.json").read_text())
    stages = json.loads((run / "metrics.json").read_text())["stages"]
    return [[x["loss"], x["validation"] or 0.0] for x in losses] + [[x[name] for name in FIGURES] for x in stages]


def others(run: Path) -> set[Path]:
    """The files of a run but for checkpoints, of which each process has files of its own."""
    return {path for path in files(run) if path.parts[0] != "checkpoints"}


def test_two_processes_give_what_one_gives_and_one_goes_on_where_one_of_two_was_killed(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    judged = Evaluate(metrics=(HeldOutLoss(draws=1), TeacherDistance()), samples=8, steps=1, batch_size=3)
    recipe = load_recipe(write_recipe("[replace_attention(HyenaX(kernel=4), layers=every(2), inherit='fitted')]"))
    adapted = recipe.finetune.model_copy(update={"lora": LoRA(rank=2)})
    recipe = recipe.model_copy(update={"evaluate": judged, "finetune": adapted})
    surgery.apply(recipe, tmp_path / "one", name="recipe")

    def work(folder: str, progress: Any = None, shard: bool = False) -> None:
        surgery.apply(recipe, tmp_path / folder, name="recipe", progress=progress if rank() else None, shard=shard)

    assert in_processes(2, lambda: work("two", shard=True)) == [None, None]
    student = surgery.load(tmp_path / "two" / "model")
    assert type(student) is type(surgery.load(tmp_path / "one" / "model"))
    killed = in_processes(2, lambda: work("killed", Killing(after=2 * 8 + 5 + 4)))  # drawn twice, fitted, then steps
    assert killed[0].startswith("LostError")
    assert killed[1] == "killed"
    surgery.apply(recipe, tmp_path / "killed", name="recipe", resume=True)
    expected = figures(tmp_path / "one")
    for folder in ("two", "killed"):
        assert others(tmp_path / folder) == others(tmp_path / "one")
        for found, wanted in zip(figures(tmp_path / folder), expected, strict=True):
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_the_command_line_starts_processes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    command = ["apply", str(write_recipe()), "--out", str(tmp_path / "run"), "--gpus", "2", "--json"]
    assert main([*command, "--set", "evaluate=null", "--log-dir", str(tmp_path / "logs")]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["stages"][-1]["stage"] == "finetuned"
    assert err.count("distil 6/6") == 1
    assert (tmp_path / "run" / "report.html").exists()
    (other,) = (path for path in (tmp_path / "logs").rglob("stderr.log") if path.stat().st_size)
    assert other.parent.name == "1"
    assert "distil 6/6" in other.read_text()


def test_too_few_processes_are_refused(capsys: pytest.CaptureFixture[str], write_recipe: Callable[..., Path]) -> None:
    assert main(["apply", str(write_recipe()), "--gpus", "0"]) == 2
    assert capsys.readouterr().err == "surgery: --gpus 0: name at least 1\n"
    assert main(["apply", str(write_recipe()), "--log-dir", "logs"]) == 2
    assert capsys.readouterr().err.startswith("surgery: --log-dir: one process alone has the terminal; add --gpus")


@nightly
def test_a_mistake_gets_one_line_and_its_exit_status(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    (tmp_path / "other").touch()
    assert main(["apply", str(write_recipe()), "--out", str(tmp_path), "--gpus", "2"]) == 2
    assert capfd.readouterr().err == f"surgery: {tmp_path}: holds other files; choose another --out\n"


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, ["interrupted; a run goes on"]), (signal.SIGINT, [])])
def test_a_signal_gets_one_line_from_the_process_that_starts_the_others_or_from_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write_recipe: Callable[..., Path],
    number: signal.Signals,
    said: list[str],
) -> None:
    def ended(*_: Any) -> None:
        raise SignalException("", number)

    monkeypatch.setattr("surgery.parallel.launch.elastic_launch", lambda *_: ended)
    assert main(["apply", str(write_recipe()), "--gpus", "2"]) == 128 + number
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("surgery: ")[:26] for line in lines] == said


def test_one_process_divides_nothing(capsys: pytest.CaptureFixture[str], write_recipe: Callable[..., Path]) -> None:
    assert main(["apply", str(write_recipe()), "--shard"]) == 2
    assert "--shard: one process alone divides nothing" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(RecipeError, match="--gpus 4: this machine has 2"):
        starts_processes(4, None)
    assert starts_processes(2, None)
    assert starts_processes(4, "cpu")
