"""How the student of a run is loaded, as Python that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.data.base import DIGITS, FASHION
from surgery.digits.pipeline import DigitsPipeline, FashionPipeline
from surgery.recipe_writer import quoted
from surgery.run.folder import RunFolder

BENCH_CODE = """\
import surgery
from diffusers import {scheduler}
from surgery.digits.pipeline import {pipeline}

student = surgery.load({folder})
pipeline = {pipeline}(student, {scheduler}.from_pretrained({folder}))
pictures = pipeline(class_labels=list(range(10)), num_inference_steps=25).images
"""
PIPELINE_CODE = """\
import surgery
from diffusers import DiffusionPipeline

student = surgery.load({folder})
pipeline = DiffusionPipeline.from_pretrained({model})
pipeline.{component} = student
"""
PIPELINES = {DIGITS: DigitsPipeline.__name__, FASHION: FashionPipeline.__name__}


def loading_of(folder: RunFolder, recipe: dict[str, Any]) -> str:
    """Python that loads the student of a finished run, and puts it into its pipeline."""
    model = quoted(str(folder.model))
    data = recipe.get("data", DIGITS)
    pipeline = PIPELINES.get(data if isinstance(data, str) else data["kind"])
    if pipeline is not None:
        scheduler = folder.read_json("model/scheduler_config.json").get("_class_name", "DDIMScheduler")
        return BENCH_CODE.format(folder=model, scheduler=scheduler, pipeline=pipeline)
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
