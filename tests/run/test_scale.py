"""How a recipe fits into GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.cli.scale import bytes_of
from surgery.errors import RecipeError
from surgery.operators import HyenaX
from surgery.recipe import Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention
from surgery.run.scale import Scale


@pytest.fixture(scope="module")
def scale(tiny_dit: Path) -> Scale:
    """One for all, as it remembers what was rehearsed."""
    return Scale(Recipe(model=str(tiny_dit), rules=[replace_attention(HyenaX(kernel=4), layers=every(2))]))


def test_settings_are_taken_until_it_fits(scale: Scale) -> None:
    plenty = scale.stages(1, 10**12)
    assert [stage.settings for stage in plenty] == [(), ()]
    assert all(stage.fits for stage in plenty)
    for number, stage in enumerate(plenty):
        (less,) = (each for each in scale.stages(1, stage.memory - 1) if each.stage == stage.stage)
        assert less.settings[0] == f"{stage.stage}.micro_batch=1"
        assert less.memory < plenty[number].memory


def test_weights_are_divided_where_there_are_others(scale: Scale) -> None:
    alone, shared = scale.stages(1, 1), scale.stages(8, 1)
    assert not any(stage.fits for stage in (*alone, *shared))
    assert not any("--shard" in stage.settings for stage in alone)
    assert all("--shard" in stage.settings for stage in shared)
    assert shared[1].memory < scale.stages(2, 1)[1].memory


def test_more_gpus_take_no_longer_while_operations_count(scale: Scale) -> None:
    one, eight = scale.stages(1, 10**12), scale.stages(8, 10**12)
    assert all(stage.bound == "operations" for stage in one)
    for few, many in zip(one, eight, strict=True):
        assert few.seconds / 8 <= many.seconds or many.bound == "operations"


def test_the_command_gives_json(capsys: pytest.CaptureFixture[str], write_recipe: Callable[..., Path]) -> None:
    assert main(["plan", str(write_recipe()), "--gpus", "8", "--memory", "24GiB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["gpus"], found["memory"]) == (8, 24 * 2**30)
    assert [stage["stage"] for stage in found["stages"]] == ["distil", "finetune"]


def test_sizes_are_read() -> None:
    assert bytes_of("80GB") == 80 * 10**9
    assert bytes_of("1.5 GiB") == 1.5 * 2**30
    with pytest.raises(RecipeError, match="--memory 80: write it as"):
        bytes_of("80")
