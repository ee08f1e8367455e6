"""Checkpoints that survive a crash at any moment.

A checkpoint is one safetensors file for each stage, its JSON in the file's metadata. It is written beside its place,
forced to the disk and then renamed over the old one, so at any moment the folder holds either the old or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from surgery.errors import ArtifactError, TrainingError
from surgery.parallel.group import by_first, is_first
from surgery.parallel.whole import at_first, whole
from surgery.training.record import LossRecord, from_table, to_table

FORMAT = "surgery checkpoint 1"

Identity = Mapping[str, Any]
"""Plain JSON that tells one training from another: configuration, seed, digests of data and weights."""


@dataclass(frozen=True)
class TrainState:
    """All that changes while a stage trains.

    Attributes:
        step: how many steps are done.
        parameters: by name.
        optimizer: its moments, by keys such as "blocks.0.weight/exp_avg".
        ema: the averages by name; empty in a stage that keeps none.
        records: the losses of all steps done.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: dict[str, Tensor]
    records: list[LossRecord]


class CheckpointStore:
    """The checkpoints of a run: the last one of each stage, in a folder that is made with the first."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, stage: str) -> Path:
        """Where the checkpoint of `stage` lies."""
        return self.folder / f"{stage}.safetensors"

    def save(self, stage: str, state: TrainState, identity: Identity) -> None:
        """Replace the checkpoint of `stage`; all processes have the state, the first one writes it.

        Raises:
            TrainingError: it cannot be written; the old one is then kept.
        """
        by_first(partial(self._save, stage, state, identity, _pack(state)))

    def _save(self, stage: str, state: TrainState, identity: Identity, tensors: dict[str, Tensor]) -> None:
        sites = list(state.records[-1].sites) if state.records else []
        text = json.dumps({"format": FORMAT, "step": state.step, "sites": sites, "identity": dict(identity)})
        metadata = {"state": text, "sha256": digest(tensors, text)}
        _write(self.path(stage), tensors, metadata)

    def load(self, stage: str, identity: Identity) -> TrainState | None:
        """The last state of `stage`, None if there is none; what a killed save left is removed.

        Raises:
            ArtifactError: the checkpoint is truncated or altered, or has another identity.
        """
        path = self.path(stage)
        if is_first():
            shutil.rmtree(_partial(path), ignore_errors=True)  # a finished stage saves no more, which would remove it
        if not path.exists():
            return None
        tensors, text = _read(path)
        header = json.loads(text)
        _require_same(path, header["identity"], json.loads(json.dumps(dict(identity))))
        return _unpack(stage, header, tensors)


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The SHA-256, in hex, of `text` and of the names, dtypes, shapes and bytes of `tensors`, sorted by name."""
    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = whole(tensor.detach()).cpu().contiguous().reshape(-1)
        if flat.numel():
            sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _pack(state: TrainState) -> dict[str, Tensor]:
    """All tensors of a state, in the first process, which writes them."""
    groups = {"parameters": state.parameters, "optimizer": state.optimizer, "ema": state.ema}
    packed = at_first({f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()})
    return {**{name: _owned(tensor) for name, tensor in packed.items()}, "records": to_table(state.records)}


def _owned(tensor: Tensor) -> Tensor:
    """The tensor, which is on the CPU, with a storage of its own: safetensors refuses views that share one."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _unpack(stage: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> TrainState:
    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

    records = from_table(stage, header["sites"], tensors["records"])
    return TrainState(header["step"], group("parameters"), group("optimizer"), group("ema"), records)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial")


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    partial = _partial(path)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)  # a folder: a kill would leave files under names that safetensors makes up
        save_file(tensors, partial / path.name, metadata)
        _sync(partial / path.name)
        os.replace(partial / path.name, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise TrainingError(
            f"cannot write a checkpoint of {size:,} bytes in {path.parent}: {error}; "
            "make room or mend the folder, then resume: the last good checkpoint is kept"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, expected = metadata["state"], metadata["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if digest(tensors, text) != expected:
        raise _damaged(path, "its checksum does not match its content")
    if json.loads(text)["format"] != FORMAT:
        raise _damaged(path, f"its format is not {FORMAT!r}")
    return tensors, text


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {path} is truncated or altered: {reason}; restore a copy of it, or delete it to repeat the stage"
    )


def _require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        shown = ", ".join(f"{k} ({_short(found.get(k))} there, {_short(wanted.get(k))} here)" for k in differing)
        raise ArtifactError(
            f"checkpoint {path} belongs to another training: it differs in {shown}; "
            "resume with what it was started with, or use another folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
