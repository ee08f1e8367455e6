"""Fixtures shared by the tests of whole runs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from hypothesis import settings

import surgery
from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention
from surgery.testing import profiles
from tests.nightly import IS_NIGHTLY

settings.load_profile(profiles.chosen())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what only the nightly run tries."""
    late = [] if IS_NIGHTLY else [item for item in items if item.get_closest_marker("nightly")]
    items[:] = [item for item in items if item not in late]
    config.hook.pytest_deselected(items=late)


@pytest.fixture(scope="session")
def tiny_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained DiT for the digits, with its scheduler."""
    folder = tmp_path_factory.mktemp("tiny-dit")
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=4, sample_size=8,
        patch_size=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    model.save_pretrained(folder)
    DDPMScheduler(num_train_timesteps=100).save_pretrained(folder)  # a longer one takes longer to be measured
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_dit: Path) -> Path:
    """The folder of a finished run, to be read only; `copied_run` gives one that may be changed."""
    steps = {"steps": 12, "batch_size": 8, "checkpoint_every": 4, "warmup": 1}
    recipe = Recipe(
        model=str(tiny_dit),
        rules=[replace_attention(HyenaX(kernel=4), layers=every(2))],
        distil=Distil(**steps),
        finetune=Finetune(**steps, target="teacher"),
        evaluate=Evaluate(samples=60, steps=2, batch_size=60),
    )
    return surgery.apply(recipe, tmp_path_factory.mktemp("trained") / "run", name="a/recipe.py").folder


@pytest.fixture
def copied_run(trained_run: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies the finished run to a folder of the test's own."""
    return lambda name: Path(shutil.copytree(trained_run, tmp_path / name))


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_dit: Path) -> Callable[..., Path]:
    """Writes a small recipe for `tiny_dit` to a file; `distil` and so on are the arguments given there."""

    def write(
        rules: str = "[replace_attention(HyenaX(kernel=4), layers=every(2))]",
        distil: str = "steps=6, batch_size=8, checkpoint_every=2",
        finetune: str = "steps=6, batch_size=8, checkpoint_every=2",
        name: str = "recipe.py",
    ) -> Path:
        path = tmp_path / name
        path.write_text(
            textwrap.dedent(f"""\
            from surgery.operators import HyenaX, SlidingWindow
            from surgery.recipe import Distil, Evaluate, Finetune, Recipe
            from surgery.rewriting import every, indices
            from surgery.rules import drop_blocks, replace_attention

            recipe = Recipe(
                model={str(tiny_dit)!r},
                rules={rules},
                distil=Distil({distil}),
                finetune=Finetune({finetune}),
                evaluate=Evaluate(samples=60, steps=2, batch_size=60),
            )
            """)
        )
        return path

    return write
