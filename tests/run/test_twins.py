"""From a folder of images or videos, and from prompts, to a student in its pipeline; all five families nightly."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from surgery.evaluate.metrics import HeldOutLoss
from surgery.evaluate.settings import Evaluate
from surgery.pipelines.load import load_pipeline
from surgery.recipe import Finetune
from surgery.rewriting import indices
from surgery.rules import drop_blocks
from surgery.store import Store
from surgery.testing import profiles
from tests.run.twins import STEPS, built, of_pictures, of_prompts, recipe, saved

FAMILIES = ("PixArtSigmaPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "WanPipeline", "SanaPipeline")
CASES = [(name, kind) for name in FAMILIES for kind in ("pictures", "prompts")]
CHOSEN = CASES if profiles.chosen() == "nightly" else [("FluxPipeline", "pictures")]


@pytest.mark.parametrize(("name", "kind"), CHOSEN)
def test_a_student_learns_and_runs_in_its_pipeline(name: str, kind: str, tmp_path: Path) -> None:
    data = of_pictures(tmp_path / "pictures", name) if kind == "pictures" else of_prompts(name)
    folder = saved(tmp_path / "pipeline", name)
    more = {"rules": (drop_blocks(layers=indices(1)),)} if name == "SanaPipeline" else {}  # its MLPs are convolutions
    judged = Evaluate(metrics=[HeldOutLoss()], samples=1, steps=2)
    finetune = Finetune(**{**STEPS, "steps": 16}, lr=3e-3, ema_decay=0.0)
    run = surgery.apply(recipe(folder, data, finetune=finetune, evaluate=judged, **more), tmp_path / "run")
    assert len(Store(run.folder / "data" / "samples")) == (24 if kind == "pictures" else 60)
    losses = {stage.stage: stage.values["held_out_loss"] for stage in run.metrics.stages}
    assert losses["finetuned"] < losses["rewritten"]
    pipeline = load_pipeline(folder)
    pipeline.transformer = surgery.load(run.folder / "model")
    assert pipeline(**built(name)[1], num_inference_steps=2)[0] is not None
