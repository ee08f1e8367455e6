"""How the student of a run is loaded, as Python that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.data.base import DIGITS
from surgery.recipe_writer import quoted
from surgery.run.folder import RunFolder

DIGITS_CODE = """\
import surgery
from diffusers import {scheduler}
from surgery.digits.pipeline import DigitsPipeline

student = surgery.load({folder})
pipeline = DigitsPipeline(student, {scheduler}.from_pretrained({folder}))
pictures = pipeline(class_labels=list(range(10)), num_inference_steps=25).images
"""
PIPELINE_CODE = """\
import surgery
from diffusers import DiffusionPipeline

student = surgery.load({folder})
pipeline = DiffusionPipeline.from_pretrained({model})
pipeline.{component} = student
"""


def loading_of(folder: RunFolder, recipe: dict[str, Any]) -> str:
    """Python that loads the student of a finished run, and puts it into its pipeline."""
    model = quoted(str(folder.model))
    if recipe.get("data", DIGITS) == DIGITS:
        scheduler = folder.read_json("model/scheduler_config.json").get("_class_name", "DDIMScheduler")
        return DIGITS_CODE.format(folder=model, scheduler=scheduler)
    component = _component(Path(recipe["model"]), folder.read_json("model/surgery.json").get("model_class"))
    return PIPELINE_CODE.format(folder=model, model=quoted(recipe["model"]), component=component)


def _component(pipeline: Path, model_class: str) -> str:
    """What the pipeline calls its transformer, if it is a folder that says so."""
    try:
        parts = json.loads((pipeline / "model_index.json").read_text())
    except (OSError, ValueError):
        return "transformer"
    named = (name for name, part in parts.items() if isinstance(part, list) and part[-1] == model_class)
    return next(named, "transformer")
