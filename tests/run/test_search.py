"""`surgery search` from a recipe to a recipe."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.recipe import Recipe, load_recipe
from surgery.run.search import search
from surgery.search.result import SearchResult

RECIPE = """\
from typing import Literal

from surgery.evaluate.metrics import HeldOutLoss
from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import indices
from surgery.rules import MLPRatio, drop_blocks, replace_attention


class Fewer(MLPRatio):
    kind: Literal["fewer"] = "fewer"


recipe = Recipe(
    model={model!r},
    rules=[replace_attention(HyenaX(kernel=4)), Fewer(ratio=2), drop_blocks(layers=indices(1, 2))],
    distil=Distil(steps=300, batch_size=8, lr=1e-2),
    finetune=Finetune(steps=300, batch_size=8),
    evaluate=Evaluate(metrics=[HeldOutLoss(draws=1)], samples=2, steps=1),
)
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, tiny_dit) -> Path:
    """A recipe with three rules as candidates, one of them of its own, and no budget."""
    path = tmp_path_factory.mktemp("search") / "candidates.py"
    path.write_text(RECIPE.format(model=str(tiny_dit)))
    return path


ASKED = ("--budget", "flops=0.85", "--set", "search.steps=2", "--set", "search.shortlist=2")


@pytest.fixture(scope="module")
def finished(recipe_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "out"
    assert main(["search", str(recipe_file), *ASKED, "--out", str(folder)]) == 0
    return folder


def found_in(folder: Path) -> SearchResult:
    return SearchResult.model_validate_json((folder / "search.json").read_text())


def test_what_is_found_keeps_the_budget_and_is_the_best_of_the_shortlist(finished):
    found = found_in(finished)
    assert {option.rule for option in found.candidates} == {"ReplaceAttention", "Fewer", "DropBlocks"}
    assert [option.layer for option in found.candidates if option.rule == "DropBlocks"] == [1, 2]
    assert len(found.shortlist) == 2
    assert all(each.cost["flops"] <= found.budget["flops"].limit for each in found.shortlist)
    values = [each.metrics["held_out_loss"] for each in found.shortlist]
    assert found.best.metrics["held_out_loss"] == min(values)
    harms = {option.key: option.harm for option in found.candidates}
    assert all(each.harm == pytest.approx(sum(harms[key] for key in each.candidates)) for each in found.shortlist)
    assert (finished / "pareto.svg").read_text().startswith("<svg xmlns=")


def test_the_recipe_that_comes_out_is_plain_and_runs(finished, capsys, tmp_path):
    found, text = found_in(finished), (finished / "recipe.py").read_text()
    assert "layers=indices(" in text
    recipe = load_recipe(finished / "recipe.py")
    assert recipe.search is None
    assert recipe.distil.steps == 300
    assert main(["plan", str(finished / "recipe.py"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["total"]["flops"]["after"] == found.best.cost["flops"]
    assert plan["total"]["params"]["after"] == found.best.cost["params"] == found.best.metrics["params"]
    paths = {path for option in found.candidates if option.key in found.best.candidates for path in option.paths}
    assert {edit["path"] for edit in plan["edits"]} == paths
    short = ["--set", "distil.steps=1", "--set", "finetune.steps=1", "--out", str(tmp_path / "run")]
    assert main(["apply", str(finished / "recipe.py"), *short]) == 0


def test_a_finished_search_is_read_back(finished, recipe_file, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    (finished / "search.json").unlink()
    assert main(["search", str(recipe_file), *ASKED, "--out", str(finished), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(finished)
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before


class StopError(Exception):
    pass


class Stopping:
    """A progress that raises when a stage begins for the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0):
        self.left -= 1
        if not self.left:
            raise StopError
        yield self

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        pass

    def say(self, line: str) -> None:
        pass


def test_an_interrupted_search_goes_on_to_the_same_result(finished, recipe_file, tmp_path):
    recipe = _asked(recipe_file)
    for after in (2, 3):
        with pytest.raises(StopError):
            search(recipe, tmp_path / "out", resume=True, progress=Stopping(after), source=recipe_file)
    search(recipe, tmp_path / "out", resume=True, source=recipe_file)
    again, before = found_in(tmp_path / "out"), found_in(finished)
    assert again.candidates == before.candidates
    assert [each.candidates for each in again.shortlist] == [each.candidates for each in before.shortlist]
    losses = [[each.metrics["held_out_loss"] for each in found.shortlist] for found in (again, before)]
    assert losses[0] == losses[1]


def _asked(recipe_file: Path) -> Recipe:
    from surgery.recipe import override, with_budget

    recipe = with_budget(load_recipe(recipe_file), ["flops=0.85"])
    return override(recipe, ["search.steps=2", "search.shortlist=2"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the recipe names no budget"),
        (["--budget", "flops"], "--budget flops: write it as name=amount"),
        (["--budget", "flop=1"], "did you mean 'flops'"),
        (["--budget", "flops=1.1"], "the teacher keeps it already, so there is nothing to edit"),
        (["--budget", "flops=0.01"], "flops of at most"),
        (["--budget", "params=much"], "is no amount"),
        (["--budget", "flops=0.85", "--set", "search.step=2"], "unknown key 'step', did you mean 'steps'"),
    ],
)
def test_a_mistake_is_a_line_and_nothing_is_written(arguments: list[str], words: str, recipe_file, capsys, tmp_path):
    assert main(["search", str(recipe_file), *arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rules_that_are_candidates_are_not_applied(recipe_file, capsys, tmp_path):
    text = recipe_file.read_text().replace("evaluate=", "search=Search(budget=Budget(flops=0.8)),\n    evaluate=")
    text = text.replace("import Distil", "import Budget, Search, Distil")
    (tmp_path / "both.py").write_text(text)
    assert main(["apply", str(tmp_path / "both.py"), "--out", str(tmp_path / "run")]) == 2
    assert "run `surgery search`, and apply the recipe that it writes" in capsys.readouterr().err


def test_another_recipe_in_the_folder_is_refused(finished, recipe_file, capsys, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    status = main(["search", str(recipe_file), "--budget", "flops=0.9", "--out", str(copy), "--resume"])
    assert status == 2
    assert "it differs in search" in capsys.readouterr().err


def test_a_search_is_no_run(finished, capsys):
    for command in ("compare", "analyze"):
        assert main([command, str(finished)]) == 1
        assert "holds a search, no run; apply the recipe that it has found" in capsys.readouterr().err


def test_what_cannot_be_kept_beside_a_latency_is_refused_before_that_is_measured(recipe_file, tmp_path, capsys):
    arguments = [str(recipe_file), "--budget", "latency=0.5", "--budget", "flops=1e-6", "--out", str(tmp_path / "out")]
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert "flops of at most" in error
    assert not (tmp_path / "out" / "latency.json").exists()


def test_latency_is_measured_once_for_each_kind_of_edit(recipe_file, tmp_path, capsys):
    arguments = [str(recipe_file), "--budget", "latency=1e-6", "--out", str(tmp_path / "out")]
    assert main(["search", *arguments]) == 2
    assert "latency of at most" in capsys.readouterr().err
    measured = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert measured["teacher_ms"] > 0
    assert sorted(kind.split()[0] for kind in measured["shares"]) == ["DropBlocks", "Fewer", "ReplaceAttention"]
    before = (tmp_path / "out" / "latency.json").stat().st_mtime_ns
    assert main(["search", *arguments, "--resume"]) == 2
    assert (tmp_path / "out" / "latency.json").stat().st_mtime_ns == before
