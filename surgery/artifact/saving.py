"""Saving a student; nothing is written that could not be read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgery.artifact.description import DESCRIPTION, Description, folder_of, is_artifact, signed
from surgery.artifact.fitting import misfits
from surgery.artifact.rebuild import from_config, transformer_class, with_edits
from surgery.artifact.structure import Structure, differences, structure_of
from surgery.artifact.weights import DTYPES, Slot, foreign_weights, give_parts, settle, write_weights
from surgery.errors import ArtifactError, SurgeryError
from surgery.files import write_atomically
from surgery.kinds import why_not_read_back
from surgery.parallel.group import is_first
from surgery.parallel.whole import is_divided
from surgery.recording.skeleton import skeleton
from surgery.recording.state import own_class
from surgery.rewriting import Edit
from surgery.rewriting.commit import record_of, skeleton_before

NAMED = 3
"""Differences that an error names; it counts the others."""


@contextmanager
def _refusing() -> Iterator[None]:
    """Any error says that a student cannot be saved."""
    try:
        yield
    except ArtifactError:
        raise
    except SurgeryError as error:
        raise ArtifactError(str(error)) from error


@_refusing()
def save(student: nn.Module, folder: str | Path) -> Path:
    """Write `student` to `folder` as `surgery.json` and `model.safetensors`, of more than 5 GB in several files.

    An older artifact in the folder is replaced as a whole, or stays as it is; weights that others have written are never
    touched. Of a model that is no transformer of diffusers, the class is not saved: `load` needs a fresh model of it as
    `base`. Several processes that have divided the weights call this at once: the first one writes, and holds a whole
    tensor at a time.

    Raises:
        ArtifactError: the student could not be read back as it is, because it has operators that are not known, or
            modules, attributes, tensors or hooks that differ from what its class and its edits give; or the folder holds
            the weights of another model, is no path, or cannot be written.
    """
    folder = folder_of(folder)
    _require_no_other(folder)
    record = record_of(student)
    _require_read_back(record.edits if record else ())
    config, structure = _base_of(student)
    fresh = _rebuilt(student, config)
    _require_same(student, fresh)
    tensors = saved_tensors(student, fresh)
    _refuse(student, misfits(fresh, {name: Slot(tuple(t.shape), t.dtype) for name, t in tensors.items()}))
    if not is_first():
        give_parts(tensors)
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = write_weights(folder, tensors)
        description = Description(
            model_class=own_class(student).__name__,
            base_config=config,
            structure=structure,
            commits=record.commits if record else (),
            weights=files,
        )
        # From here on the folder holds the new artifact: until they have their own names, `load` finds the files.
        write_atomically(folder / DESCRIPTION, signed(description.model_dump(mode="json")))
        settle(folder, files)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    return folder


def _require_no_other(folder: Path) -> None:
    """Raise ArtifactError if there are other weights: whoever opens the folder would find two models, and take either."""
    others = foreign_weights(folder, is_artifact(folder))
    if others:
        raise ArtifactError(
            f"{folder}: holds another model, {others[0]}; save the student to another folder, or remove that model first"
        )


@_refusing()
def require_savable(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Raise ArtifactError if a student of `model` with `edits` could not be saved; this needs no student."""
    _require_read_back(edits)
    _require_same(model, _rebuilt(model, _base_of(model)[0]))


def saved_tensors(student: nn.Module, fresh: nn.Module) -> dict[str, Tensor]:
    """The tensors of an artifact by name: the `state_dict`, and other buffers unless `fresh` has the same.

    Raises:
        ArtifactError: one cannot be saved.
    """
    tensors = {name: value for name, value in student.state_dict().items() if isinstance(value, Tensor)}
    expected = dict(fresh.named_buffers())
    for name, buffer in student.named_buffers(remove_duplicate=False):
        if name not in tensors and not _same(expected.get(name), buffer):
            tensors[name] = buffer
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ArtifactError(f"{name}: has no values, it is on the meta device; load or move the weights first")
        plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) or is_divided(tensor)
        if tensor.dtype not in DTYPES or not plain:
            kind = f"{type(tensor).__name__} of {str(tensor.dtype).removeprefix('torch.')}"
            raise ArtifactError(f"{name}: a {kind} could not be read back; save the student before it is quantised")
    return tensors


def _same(expected: Tensor | None, given: Tensor) -> bool:
    if expected is None or expected.is_meta or given.is_meta or expected.dtype != given.dtype:
        return False
    return torch.equal(expected, given.detach().cpu())


def _base_of(student: nn.Module) -> tuple[dict[str, Any] | None, Structure | None]:
    """The config of a transformer of diffusers; of any other class what its modules were before the edits."""
    model_class = own_class(student)
    if transformer_class(model_class.__name__) is model_class:
        text = skeleton(student).to_json_string()  # type: ignore[operator]  # it writes into the config
        return json.loads(text), None
    if record_of(student) is None:
        raise ArtifactError(
            f"{model_class.__name__} is not a model class of diffusers.models.transformers and has no edits to save; "
            "save its state_dict instead"
        )
    return None, structure_of(_before(student))


def _rebuilt(student: nn.Module, config: dict[str, Any] | None) -> nn.Module:
    """What `load` would give, without weights."""
    record = record_of(student)
    base = _before(student) if config is None else from_config(own_class(student), config)
    return with_edits(base, record.commits if record else ())


def _before(student: nn.Module) -> nn.Module:
    """The student without its edits, on the meta device."""
    try:
        return skeleton_before(student, hooked=True)
    except (AttributeError, KeyError) as error:
        raise ArtifactError(
            f"{type(student).__name__}: what its edits made is not there any more ({error}); "
            "put back what was exchanged by hand, then save"
        ) from error


def _require_same(student: nn.Module, fresh: nn.Module) -> None:
    """Raise ArtifactError if `student` is not what `load` would give, up to its weights."""
    _refuse(student, chain(differences(fresh, student), _changed_tables(fresh, student)))


def _refuse(student: nn.Module, found: Iterator[str]) -> None:
    """Raise ArtifactError if anything is `found`."""
    listed = list(islice(found, NAMED))
    if listed:
        more = f" (and {count} more)" if (count := sum(1 for _ in found)) else ""
        raise ArtifactError(
            f"{own_class(student).__name__} could not be read back as it is: {'; '.join(listed)}{more}; "
            "remove hooks, put back what was changed by hand, merge or unload adapters, then save"
        )


def _changed_tables(fresh: nn.Module, student: nn.Module) -> Iterator[str]:
    """Tensors that are plain attributes, and not those that are new."""
    modules = dict(student.named_modules())
    for path, module in fresh.named_modules():
        for name, value in vars(module).items():
            given = getattr(modules.get(path), name, None)
            known = isinstance(value, Tensor) and isinstance(given, Tensor) and not value.is_meta
            if known and not _same(value, given):  # type: ignore[arg-type]
                yield f"{path or 'the model'}: the values of {name} are others"


def _require_read_back(edits: Iterable[Edit]) -> None:
    """Raise ArtifactError if JSON does not give an operator of the student, or its sizes, again."""
    for edit in edits:
        for part in (part for new in edit.made for part in (new.operator, new.dims)):
            if reason := why_not_read_back(part):
                raise ArtifactError(f"{edit.path}: {type(part).__name__} could not be read back: {reason}")
