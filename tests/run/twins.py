"""Tiny pipelines in folders, and recipes that train them for a few steps."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from surgery.data import Data, Generated, Images, Videos
from surgery.operators import GatedMLP
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rules import replace_mlp
from tests.data.draw import halves
from tests.pipelines.embedded import EMBEDDED
from tests.pipelines.tiny import PIPELINES

STEPS = {"steps": 6, "batch_size": 4, "warmup": 0, "checkpoint_every": 2}
TRAINED = {"distil": Distil(**STEPS), "finetune": Finetune(**STEPS, lr=1e-2, ema_decay=0.0)}
SCHEDULE = 100
PROMPTS = ("prompt", "class_labels")


@cache
def built(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline, and keywords for one sample of it."""
    tiny = next(tiny for tiny in (*PIPELINES, *EMBEDDED) if tiny.name == name)
    return tiny.build(), tiny.call


def call_of(name: str) -> dict[str, Any]:
    """The keywords besides the prompt."""
    return {key: value for key, value in built(name)[1].items() if key not in PROMPTS}


def saved(folder: Path, name: str) -> Path:
    """The pipeline in a folder, with a schedule that is soon measured."""
    built(name)[0].save_pretrained(folder)
    at_few_times(folder)
    return folder


def at_few_times(folder: Path) -> None:
    """Shorten the schedule of the pipeline in a folder."""
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "num_train_timesteps": SCHEDULE}))


def recipe(pipeline: Path, data: Data, **more: Any) -> Recipe:
    """Gated MLPs for the pipeline in a folder, unless there are other rules among what is said more."""
    rules = (replace_mlp(GatedMLP(ratio=2), inherit="random"),)
    return Recipe(model=str(pipeline), data=data, **{"rules": rules, **TRAINED, **more})


def images(folder: Path, count: int = 24) -> Path:
    """Captioned images of two aspects, all different, and a file that is none."""
    folder.mkdir()
    for number in range(count):
        height, width = [(16, 16), (12, 24)][number % 3 % 2]
        halves(height, width, (5 * number, 9, 9), (9, 9, 7 * number)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"{number % 4} cats")
    (folder / "no.png").write_text("nothing")
    return folder


def videos(folder: Path, count: int = 24) -> Path:
    """Captioned clips, all different."""
    folder.mkdir()
    for number in range(count):
        frames = [halves(16, 16, (9 * number, 20 * frame, 9), "blue") for frame in range(12)]
        frames[0].save(folder / f"{number:02}.png", save_all=True, append_images=frames[1:], duration=50)
        (folder / f"{number:02}.txt").write_text(f"{number % 4} cats")
    return folder


def of_pictures(folder: Path, name: str) -> Data:
    """Images, or videos where the pipeline makes these, in a new folder."""
    call = call_of(name)
    if "num_frames" in call:
        return Videos(folder=str(videos(folder)), frames=call["num_frames"], fps=20, call=call)
    return Images(folder=str(images(folder)), call=call)


def of_prompts(name: str) -> Generated:
    """Samples of two prompts."""
    return Generated(prompts=("a cat", "two birds"), samples=60, steps=2, call=call_of(name))
