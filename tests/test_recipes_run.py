"""The recipes that come with the project, run on tiny twins of their models; all of them nightly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main
from surgery.testing import profiles
from tests.data.draw import halves
from tests.pipelines.tiny import PIPELINES
from tests.run.twins import at_few_times
from tests.test_recipes import FOLDER, RECIPES

TWINS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "dit_xl2": ("DiTPipeline", {}, ["data.folder=imagenet", "evaluate.metrics=[]"]),
    "pixart_sigma_2k_hyena_x": (
        "PixArtSigmaPipeline",
        {"num_layers": 28},  # as the layers of the recipe have numbers
        ['data.call={"height": 8, "width": 8, "use_resolution_binning": false, "max_sequence_length": 16}'],
    ),
    "sd3_lora": (
        "StableDiffusion3Pipeline",
        {"num_layers": 4},
        ['data.call={"height": 8, "width": 8, "max_sequence_length": 16}'],
    ),
    "flux_neighbourhood": (
        "FluxPipeline",
        {},
        ['data.call={"height": 16, "width": 16, "max_sequence_length": 16}', "rules.0.operator.grid=[8, 8]"],
    ),
    "wan_windows": (
        "WanPipeline",
        {},
        [
            'data.call={"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": 16}',
            "rules.0.operator.grid=[3, 1, 1]",
        ],
    ),
}
"""For each recipe, or those that begin so: a pipeline, what its transformer has of its own, and what is set."""

FEW = ["distil.steps=1", "finetune.steps=1", "evaluate.samples=2", "evaluate.steps=2", "evaluate.batch_size=2"]
FEW += [f"{stage}.{size}=2" for stage in ("distil", "finetune") for size in ("batch_size", "micro_batch")]
CASES = [path for path in RECIPES if path.stem != "quickstart"]
CHOSEN = CASES if profiles.chosen() == "nightly" else [p for p in CASES if p.stem in ("dit_xl2_window_50", "sd3_lora")]


def lay_out(path: Path) -> list[str]:
    """Write the twin of a recipe's model, and data, into the current folder; what is to be set to run it on these."""
    name, init, own = next(TWINS[stem] for stem in TWINS if path.stem.startswith(stem))
    tiny = next(tiny for tiny in PIPELINES if tiny.name == name)
    replace(tiny, init={**tiny.init, **init}).build().save_pretrained("twin")
    at_few_times(Path("twin"))
    for kind in range(3):
        (folder := Path("imagenet", f"n{kind}")).mkdir(parents=True)
        for number in range(3):
            halves(16, 16, (80 * kind, 9, 9), (9, 9, 60 * number)).save(folder / f"{number}.png")
    Path("prompts.txt").write_text("a cat\na dog\n")
    generated = [] if name == "DiTPipeline" else ["data.samples=4", "data.steps=2"]
    return ["model=twin", *FEW, *generated, *own]


@pytest.mark.parametrize("path", CHOSEN, ids=lambda path: path.stem)
def test_a_recipe_runs_on_the_twin_of_its_model(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = lay_out(path)
    assert (
        main(["apply", str(FOLDER / path.name), "--out", "run", *(a for each in chosen for a in ("--set", each))]) == 0
    )
    stages = json.loads(Path("run/metrics.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["teacher", "rewritten", "distilled", "finetuned"]
    assert json.loads(Path("run/plan.json").read_text())["edits"]
    assert Path("run/model").is_dir()
