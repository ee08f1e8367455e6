"""Configs of published checkpoints by hub id, to plan for them without weights or network.

Where a config does not tell the size of the latents, `_sizes` has that of the checkpoint's usual samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def preset(name: str) -> dict[str, Any] | None:
    """The diffusers config of the checkpoint `name`, with its class under `_class_name`; None if it is not known."""
    file = FOLDER / f"{name.replace('/', '--')}.json"
    return json.loads(file.read_text()) if "/" in name and file.is_file() else None


def presets() -> list[str]:
    """The hub ids of all known checkpoints."""
    return sorted(file.stem.replace("--", "/") for file in FOLDER.glob("*.json"))
