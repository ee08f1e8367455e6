"""Pipelines from folders, and a call for one of which nothing else is known."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from surgery.errors import WiringError

SIMPLE: dict[str, Any] = {"prompt": "a photograph", "class_labels": [0]}


def load_pipeline(folder: str | Path) -> Any:
    """The pipeline that diffusers saved in `folder`.

    Raises:
        WiringError: there is none, or it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    if not (Path(folder) / "model_index.json").is_file():
        raise WiringError(f"{folder} holds no model_index.json: give a folder written by a pipeline's save_pretrained")
    try:
        return DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise WiringError(f"the pipeline in {folder} cannot be loaded: {error}") from error


def call_of(pipeline: Any, file: Path | None = None) -> dict[str, Any]:
    """The keywords in the JSON `file`; without one, a prompt or a class as far as `pipeline` takes them.

    Raises:
        WiringError: the file holds no JSON object.
    """
    if file is None:
        known = inspect.signature(pipeline.__call__).parameters
        return {name: value for name, value in SIMPLE.items() if name in known}
    try:
        call = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WiringError(f"{file}: no call can be read there ({error})") from error
    if not isinstance(call, dict):
        raise WiringError(f"{file}: a call is a JSON object of the pipeline's keywords")
    return call
