"""Artifacts: a student as safetensors and JSON, rebuilt from (base config, edits, weights). No pickle, no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import nn

from surgery.config import Config
from surgery.errors import ArtifactError, SurgeryError
from surgery.files import write_atomically
from surgery.kinds import UNKNOWN, preferring, why_not_read_back
from surgery.operators import OperatorConfig
from surgery.recording.skeleton import skeleton
from surgery.rewriting.commit import Record, make_modules, record_of, rewire, rewired_aliases, set_record
from surgery.rewriting.edit import AnyEdit, Edit

DESCRIPTION = "surgery.json"
WEIGHTS = "model.safetensors"


class Description(Config):
    """`surgery.json`.

    Attributes:
        format: version of this layout.
        model_class: the diffusers class.
        base_config: what diffusers' `from_config` takes.
        commits: the edits of each rewrite of the base model, in order.
        sha256: of the weights file.
    """

    format: Literal[3] = 3
    model_class: str
    base_config: dict[str, Any]
    commits: tuple[tuple[AnyEdit, ...], ...]
    sha256: str


def save(student: nn.Module, folder: str | Path) -> Path:
    """Write `student` to `folder` as `surgery.json` and `model.safetensors`.

    Each file appears whole or not at all, the weights first.

    Raises:
        ArtifactError: the model is of no diffusers class, it has operators that could not be read back, or the folder
            cannot be written.
    """
    folder = Path(folder)
    name = type(student).__name__
    _model_class(name)
    record = record_of(student)
    _require_read_back(record.edits if record else ())
    weights = dump_tensors(_unshared(student.state_dict()))
    description = Description(
        model_class=name,
        base_config=json.loads(skeleton(student).to_json_string()),  # type: ignore[operator]  # it writes into the config
        commits=record.commits if record else (),
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=2).encode())
    return folder


def _require_read_back(edits: Iterable[Edit]) -> None:
    """Raise ArtifactError if JSON does not give an operator of the student, or its sizes, again."""
    for edit in edits:
        for part in (part for new in edit.made for part in (new.operator, new.dims)):
            if reason := why_not_read_back(part):
                raise ArtifactError(f"{edit.path}: {type(part).__name__} could not be read back: {reason}")


def load(folder: str | Path, operators: Sequence[type[OperatorConfig]] = ()) -> nn.Module:
    """The student saved in `folder`, in eval mode, on the CPU. Nothing in the folder is executed, nothing imported.

    Args:
        folder: as `save` wrote it.
        operators: classes of operators of your own in the student; those whose modules are imported are known already.

    Raises:
        ArtifactError: files are missing, truncated or altered, or describe something that cannot be rebuilt.
    """
    with preferring(operators):
        return _load(folder)


def _load(folder: str | Path) -> nn.Module:
    folder = Path(folder)
    description = _read_description(folder)
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != description.sha256:
        raise ArtifactError(f"{folder / WEIGHTS}: truncated or altered (its SHA-256 differs); copy or make it again")
    try:
        student = _rebuild(description)
        student.load_state_dict(load_tensors(weights), strict=True, assign=True)
    except (SurgeryError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{folder}: does not describe a model that can be rebuilt: {reason}") from error
    return student.eval()


def is_artifact(folder: str | Path) -> bool:
    """Whether `folder` was written by `save`."""
    return (Path(folder) / DESCRIPTION).is_file()


def _rebuild(description: Description) -> nn.Module:
    """The student's structure, with weights yet to be loaded; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        student: nn.Module = _model_class(description.model_class).from_config(description.base_config)
    replaced: dict[str, nn.Module] = {}
    for edits in description.commits:
        aliases = rewired_aliases(student, edits)
        for path, old in make_modules(student, edits, seed=None).items():
            replaced.setdefault(path, skeleton(old))
        rewire(student, edits, replaced, {}, aliases)
    if description.commits:
        set_record(student, Record(description.commits, replaced))
    return student


def _model_class(name: str) -> Any:
    import diffusers  # late: the import takes seconds

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        raise ArtifactError(f"{name} is not a model class of diffusers; only those can be saved and loaded")
    return found


def _read_description(folder: Path) -> Description:
    path = folder / DESCRIPTION
    try:
        return Description.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == UNKNOWN:
            advice = "or pass its class: surgery.load(..., operators=[...])"
            raise ArtifactError(f"{path}: {first['msg']}, {advice}") from None
        where = ".".join(map(str, first["loc"]))
        what = first["msg"] + (f" at {where}" if where else "")
        raise ArtifactError(f"{path}: truncated or altered: {what}; copy or make it again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}); name a folder written by surgery.save"
        ) from error


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors of which no two share memory, as safetensors demands."""
    seen: set[int] = set()
    return {name: _own_copy(tensor, seen) for name, tensor in sorted(tensors.items())}


def _own_copy(tensor: torch.Tensor, seen: set[int]) -> torch.Tensor:
    pointer = tensor.untyped_storage().data_ptr()
    shared = pointer in seen or tensor.untyped_storage().nbytes() != tensor.nbytes
    seen.add(pointer)
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if shared else tensor
