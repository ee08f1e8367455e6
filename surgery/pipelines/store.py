"""A wiring on disk: its structure as JSON, its tensors as safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from surgery.errors import ArtifactError, WiringError
from surgery.files import write_atomically, write_json
from surgery.pipelines.affine import Affine
from surgery.pipelines.batching import Batching
from surgery.pipelines.parts import Branch, Condition, Schedule
from surgery.pipelines.scaling import Scaling
from surgery.pipelines.table import Table
from surgery.store.nested import put_together, take_apart

FORMAT = "surgery wiring 3"
KINDS = {kind.__name__: kind for kind in (Affine, Batching, Branch, Condition, Scaling, Schedule, Table)}


def save(wiring: dict[str, Any], folder: Path) -> None:
    """Write wiring.json and wiring.safetensors with the fields of a wiring; see `Wiring.save`."""
    tensors: list[Tensor] = []

    def put(tensor: Tensor) -> int:
        tensors.append(tensor.detach().cpu().contiguous().clone())
        return len(tensors) - 1

    try:
        structure = take_apart(wiring, put, "wiring", KINDS)
    except ArtifactError as error:
        raise WiringError(str(error)) from error
    content = bytes_of({str(number): tensor for number, tensor in enumerate(tensors)})
    write_atomically(folder / "wiring.safetensors", content)
    whole = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "wiring": structure}
    write_json(folder / "wiring.json", whole)


def load(folder: Path) -> dict[str, Any]:
    """The fields that `save` wrote; see `Wiring.load`."""
    try:
        whole = json.loads((folder / "wiring.json").read_text())
        content = (folder / "wiring.safetensors").read_bytes()
        if whole["format"] != FORMAT:
            raise WiringError(f"{folder / 'wiring.json'}: its format is not {FORMAT!r}: measure the wiring anew")
        if whole["sha256"] != hashlib.sha256(content).hexdigest():
            raise WiringError(f"{folder}: wiring.safetensors does not belong to wiring.json: measure the wiring anew")
        tensors = tensors_from(content)
        loaded = put_together(whole["wiring"], lambda number: tensors[str(number)], KINDS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise WiringError(f"{folder}: no wiring can be read there ({why}): measure it anew") from error
    if not isinstance(loaded, dict):
        raise WiringError(f"{folder / 'wiring.json'} holds no wiring: measure it anew")
    return loaded
