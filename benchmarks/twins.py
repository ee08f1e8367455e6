"""Recipes of the project, applied from end to end on a GPU to tiny twins of their models.

Usage: python benchmarks/twins.py --rows FILE [--device cuda] [--smoke] [RECIPE ...]

As tests/test_recipes_run.py has them: caching, both stages and the evaluation, in bfloat16. All run at once, each in a
process of its own, so their seconds are those of a busy machine. A row has the loss of the first and of the last step of
each stage, the seconds of each stage of the run, and of the whole; or the error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import rows

ROOT = Path(__file__).parents[1]
RECIPES = ("dit_xl2_hyena_x_50", "pixart_sigma_2k_hyena_x", "sd3_lora", "flux_neighbourhood", "wan_windows")
STEPS, FEW = 20, 2
LIMIT = 150


def applied(recipe: str, device: str, steps: int) -> dict[str, Any]:
    """The row of one recipe, run in this process and in a new folder."""
    sys.path.insert(0, str(ROOT))
    from surgery.cli import main
    from tests.test_recipes_run import lay_out

    words = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        path = ROOT / "recipes" / f"{recipe}.py"
        settings = [*lay_out(path), "dtype=bfloat16", f"distil.steps={steps}", f"finetune.steps={steps}"]
        start = time.perf_counter()
        with contextlib.redirect_stderr(words):
            status = main(["apply", str(path), "--out", "run", "--device", device, *_set(settings)])
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"exit status {status}: {words.getvalue()}")
        stages = json.loads(Path("run/metrics.json").read_text())["stages"]
        losses = json.loads(Path("run/losses.json").read_text())
        ends = {stage: _ends(losses, stage) for stage in ("distil", "finetune")}
        return {"seconds": seconds, "stages": stages, "losses": ends}


def _set(settings: list[str]) -> list[str]:
    return [argument for each in settings for argument in ("--set", each)]


def _ends(losses: list[dict[str, Any]], stage: str) -> list[float]:
    own = [each["loss"] for each in losses if each["stage"] == stage]
    return [own[0], own[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", action="store_true", help="in this process")
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    options = parser.parse_args()
    file = options.rows.absolute()
    if options.one:
        steps = FEW if options.smoke else STEPS
        with rows.measured(file, LIMIT, benchmark="twins", recipe=options.recipes[0], device=options.device) as row:
            row |= applied(options.recipes[0], options.device, steps)
        return
    common = ["--one", "--rows", str(file), "--device", options.device, *(["--smoke"] if options.smoke else [])]
    starts = {each: partial(rows.start, "twins.py", *common, each) for each in options.recipes}
    rows.in_turns(starts, len(starts), LIMIT, file)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
