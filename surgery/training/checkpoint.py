"""Checkpoints that survive a crash at any moment, by PyTorch's distributed checkpoints.

A checkpoint is a set of files: safetensors in which each process has written its part of every tensor, and JSON with the
checksums of the others. Any number of processes goes on with it; the last few of each stage are kept.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from surgery.errors import ArtifactError
from surgery.parallel.group import background_group, by_first, from_all, from_first, is_first, rank, size
from surgery.parallel.whole import own_part, whole
from surgery.raw import raw_bytes
from surgery.training.record import LossRecord, from_table, to_table
from surgery.training.sealed import begin, damage, gather, header_of, hidden, parts_of, remove, seal, writing
from surgery.wording import differing

FORMAT = "surgery checkpoint 2"
KEPT = 2
"""Checkpoints of a stage that stay."""
FILE, FILES = 2**24, 256
"""Bytes of a process's tensors from which on it writes several files, as each is put together in memory, twice; of many
bytes it writes about so many files, and a tensor is never divided."""

warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # one process alone is no mistake

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
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    records: list[LossRecord] = field(default_factory=list)


class CheckpointStore:
    """The checkpoints of a run, in a folder that is made with the first.

    Args:
        folder: of all of them.
        background: whether training goes on while one is written, from a copy; None lets it where weights are on another
            device than the CPU, whose memory would have to hold them twice.

    Attributes:
        damaged: those that the last `load` has passed over, a line for each.
    """

    def __init__(self, folder: str | Path, background: bool | None = None) -> None:
        self.folder = Path(folder)
        self.damaged: list[str] = []
        self._background = background
        self._pending: Future[None] | None = None

    def paths(self, stage: str) -> list[Path]:
        """Where the checkpoints of `stage` are, the newest first."""
        states = (path.with_suffix("") for path in self.folder.glob(f"{stage}-*.json"))
        found = (path for path in states if path.name.removeprefix(f"{stage}-").isdigit())
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)

    def save(self, stage: str, state: TrainState, identity: Identity) -> None:
        """Write a checkpoint of `stage`; all processes call this at once, each with its part.

        Raises:
            TrainingError: it, or the one before, cannot be written; the last good one is kept.
        """
        self.finish()
        target, tensors = self.folder / f"{stage}-{state.step:06}", _pack(state)
        sites = list(state.records[-1].sites) if state.records else []
        header = {"format": FORMAT, "step": state.step, "sites": sites, "identity": dict(identity)}
        publish = partial(self._publish, stage, target, header)
        by_first(partial(begin, target))
        writer = HuggingFaceStorageWriter(str(hidden(target)), _files(tensors), save_distributed=True)
        if self._goes_on(tensors):
            group = background_group()
            staged = async_save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
            assert isinstance(staged, Future)
            self._pending = _in_thread(partial(_complete, staged.result, publish if is_first() else None, target))
        else:
            _complete(partial(save, tensors, storage_writer=writer, no_dist=size() == 1), None, target)
            by_first(publish)

    def finish(self) -> None:
        """Wait for what is written in the background.

        Raises:
            TrainingError: it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.exception()
            by_first(pending.result)

    def _goes_on(self, tensors: Mapping[str, Tensor]) -> bool:
        if self._background is not None:
            return self._background
        return any(own_part(tensor).device.type != "cpu" for tensor in tensors.values())

    def _publish(self, stage: str, target: Path, header: dict[str, Any]) -> None:
        """Let what all processes have written be the last checkpoint, and remove the oldest."""
        seal(target, header)
        for old in self.paths(stage)[KEPT:]:
            remove(old)

    def load(self, stage: str, identity: Identity, into: TrainState) -> TrainState | None:
        """The last good state of `stage`, None if there is none; what a killed save left is removed.

        Args:
            stage: its name.
            identity: of the training.
            into: its parameters and averages are filled in place; each process reads its part of what is divided.

        Raises:
            ArtifactError: all checkpoints are truncated or altered, or one has another identity.
        """
        self.finish()
        by_first(partial(self._clean, stage))
        errors: list[ArtifactError] = []
        for path in from_first(self.paths(stage)):
            reason = _damage(path)
            if reason is None:
                header = header_of(path)
                _require_same(path, header["identity"], json.loads(json.dumps(dict(identity))))
                self.damaged = [str(error) for error in errors]
                return _unpack(stage, header, _read(path, into), into)
            errors.append(_damaged(path, reason))
        if errors:
            raise errors[0]
        return None

    def _clean(self, stage: str) -> None:
        for path in self.folder.glob(f".{stage}-*.partial"):  # a finished stage saves no more, which would remove it
            shutil.rmtree(path, ignore_errors=True)
        kept = {part for path in self.paths(stage) for part in parts_of(path)}
        for path in {*self.folder.glob(f"{stage}-*.safetensors")} - kept:
            path.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The SHA-256, in hex, of `text` and of the names, dtypes, shapes and bytes of `tensors`, sorted by name."""
    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(raw_bytes(whole(tensor.detach())))
    return sha.hexdigest()


def _pack(state: TrainState) -> dict[str, Tensor]:
    """All tensors of a state."""
    groups = {"parameters": state.parameters, "optimizer": state.optimizer, "ema": state.ema}
    packed = {f"{group}/{name}": t.detach() for group, tensors in groups.items() for name, t in tensors.items()}
    return {**packed, "records": to_table(state.records)}


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file of each tensor, from 1."""
    ends = [*itertools.accumulate(own_part(tensor).nbytes for tensor in tensors.values())]
    size = max(FILE, ends[-1] // FILES)
    return {name: 1 + end // size for name, end in zip(tensors, ends, strict=True)}


def _unpack(stage: str, header: dict[str, Any], tensors: dict[str, Tensor], into: TrainState) -> TrainState:
    records = from_table(stage, header["sites"], tensors["records"])
    moments = {key.removeprefix("optimizer/"): t for key, t in tensors.items() if key.startswith("optimizer/")}
    return TrainState(header["step"], into.parameters, moments, into.ema, records)


def _read(path: Path, into: TrainState) -> dict[str, Tensor]:
    """The tensors of a good checkpoint, divided as the parameters that they belong to are."""
    folder = by_first(partial(gather, path))  # PyTorch reads all files of a folder
    reader = HuggingFaceStorageReader(str(folder))
    given, tensors = _pack(into), dict[str, Tensor]()
    for key, known in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(known, TensorStorageMetadata)
        parameter = into.parameters.get(key.partition("/")[2].rpartition("/")[0])  # of a moment
        if key in given and key != "records":
            tensors[key] = given[key]
        elif parameter is not None and parameter.shape == known.size:
            tensors[key] = torch.empty_like(parameter.detach(), dtype=known.properties.dtype)
        else:
            tensors[key] = torch.empty(known.size, dtype=known.properties.dtype)
    load(tensors, storage_reader=reader, no_dist=size() == 1)
    by_first(partial(shutil.rmtree, folder))
    return tensors


def _damage(path: Path) -> str | None:
    """Why a checkpoint is not good; each process looks at some of its files."""
    return next((each for each in from_all(damage(path, FORMAT, rank(), size())) if each is not None), None)


def _in_thread(function: Callable[[], None]) -> Future[None]:
    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(function)
    finally:
        thread.shutdown(wait=False)


def _complete(write: Callable[[], object], publish: Callable[[], None] | None, target: Path) -> None:
    """Let PyTorch write its files, and publish them."""
    with writing(target):
        write()
    if publish is not None:
        publish()


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {path} is truncated or altered: {reason}; restore a copy of it, or delete it to go on from the one "
        "before"
    )


def _require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if shown := differing(found, wanted):
        raise ArtifactError(
            f"checkpoint {path} belongs to another training: it differs in {shown}; "
            "resume with what it was started with, or use another folder"
        )
