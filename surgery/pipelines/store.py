"""A wiring on disk: its structure as JSON, its tensors as safetensors. Conditions of samples are stored the same way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from surgery.errors import WiringError
from surgery.files import write_atomically
from surgery.pipelines.affine import Affine
from surgery.pipelines.batching import Batching
from surgery.pipelines.parts import Branch, Condition, Schedule
from surgery.pipelines.table import Table
from surgery.pipelines.tree import below

FORMAT = "surgery wiring 1"
KINDS = {kind.__name__: kind for kind in (Affine, Batching, Branch, Condition, Schedule, Table)}


def save(wiring: dict[str, Any], folder: Path) -> None:
    """Write wiring.json and wiring.safetensors with the fields of a wiring; see `Wiring.save`."""
    tensors: dict[str, Tensor] = {}
    structure = pack(wiring, tensors)
    content = bytes_of({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    write_atomically(folder / "wiring.safetensors", content)
    whole = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "wiring": structure}
    write_atomically(folder / "wiring.json", json.dumps(whole, indent=1).encode())


def load(folder: Path) -> dict[str, Any]:
    """The fields that `save` wrote; see `Wiring.load`."""
    try:
        whole = json.loads((folder / "wiring.json").read_text())
        content = (folder / "wiring.safetensors").read_bytes()
        if whole["format"] != FORMAT:
            raise WiringError(f"{folder / 'wiring.json'}: its format is not {FORMAT!r}: measure the wiring anew")
        if whole["sha256"] != hashlib.sha256(content).hexdigest():
            raise WiringError(f"{folder}: wiring.safetensors does not belong to wiring.json: measure the wiring anew")
        loaded = unpack(whole["wiring"], tensors_from(content))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise WiringError(f"{folder}: no wiring can be read there ({error}): measure it anew") from error
    if not isinstance(loaded, dict):
        raise WiringError(f"{folder / 'wiring.json'} holds no wiring: measure it anew")
    return loaded


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Plain JSON for a nested value; its tensors are put into `tensors` by their path.

    Raises:
        WiringError: it holds something that is neither plain data nor a tensor.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if dataclasses.is_dataclass(value) and type(value).__name__ in KINDS:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {type(value).__name__: {key: pack(item, tensors, below(path, key)) for key, item in fields.items()}}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: pack(item, tensors, below(path, key)) for key, item in value.items()}}
    if isinstance(value, list | tuple | frozenset):
        items = sorted(value) if isinstance(value, frozenset) else value
        return {type(value).__name__: [pack(item, tensors, below(path, i)) for i, item in enumerate(items)]}
    raise WiringError(f"{path} is a {type(value).__name__}, which cannot be saved: only tensors and plain data can")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given."""
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "device":
        return torch.device(value)
    if isinstance(value, list):
        return {"list": list, "tuple": tuple, "frozenset": frozenset}[kind](unpack(item, tensors) for item in value)
    items = {key: unpack(item, tensors) for key, item in value.items()}
    return items if kind == "dict" else KINDS[kind](**items)
