"""The recipes that come with the project can be planned, at full size and without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from surgery.cli import main
from surgery.models import load_skeleton
from surgery.models.presets import presets
from surgery.recipe import Recipe, load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
SHARED = {"dit_xl2"}
RECIPES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_planned_by_the_command_that_it_names(path, capsys, monkeypatch):
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert path.read_text().split("\n\n")[1].split()[2].rstrip('"') == f"recipes/{path.name}"
    assert main(["plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["edits"]
    assert {"path", "rule", "flops", "flops_mixing", "params"} <= set(plan["edits"][0])
    assert set(plan["total"]) == {"flops", "flops_mixing", "memory", "params"}
    assert set(plan["total"]["params"]) == {"before", "after"}


def test_the_published_layers_of_pixart(capsys):
    main(["plan", str(FOLDER / "pixart_sigma_2k_hyena_x.py"), "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert [edit["layer"] for edit in plan["edits"]] == [8, 10, 12, 14, 16, 18, *range(20, 28)]
    n, d, h = 16_384, 1152, 16
    assert plan["edits"][0]["flops_mixing"] == {"before": 4 * n * n * d + 3 * h * n * n, "after": 2 * n * d}


# In billions, as published; diffusers' DiT embeds timestep and label in each block, which makes it 0.07 larger.
SIZES = {"DiT-XL": 0.675 + 0.074, "PixArt": 0.61, "FLUX.1-dev": 11.9, "stable-diffusion-3-medium": 2.03, "Wan2.1": 14.3}


@pytest.mark.parametrize("name", presets())
def test_a_preset_has_its_published_size_and_no_weights(name):
    parameters = list(load_skeleton(name).parameters())
    assert all(parameter.is_meta for parameter in parameters)
    expected = next(size for part, size in SIZES.items() if part in name)
    assert sum(parameter.numel() for parameter in parameters) / 1e9 == pytest.approx(expected, rel=0.01)


def test_any_other_model_is_loaded():
    assert not next(load_skeleton("digits-dit").parameters()).is_meta
    assert torch.get_default_dtype() == torch.float32
