"""Loading a student: everything that can be wrong is found before memory is taken for its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from surgery.artifact.description import Description, WeightsFile, altered, folder_of, read_description
from surgery.artifact.fitting import misfits
from surgery.artifact.rebuild import from_config, transformer_class, with_edits
from surgery.artifact.structure import structural_differences, structure_of
from surgery.artifact.weights import Slot, open_weights, read_header, read_tensors
from surgery.errors import ArtifactError, first_line, in_one_line
from surgery.kinds import preferring
from surgery.operators import OperatorConfig
from surgery.recording.hooks import share_hooks
from surgery.recording.paths import parent_and_name
from surgery.recording.skeleton import without_weights
from surgery.recording.state import own_class
from surgery.rewriting.commit import record_of

Model = TypeVar("Model", bound=nn.Module)
MORE_TENSORS, SOME_TENSORS = 20, 1000
"""How many more tensors than the student its base may have, as edits drop and share blocks."""


@overload
def load(
    folder: str | Path, *, base: Model, operators: Sequence[type[OperatorConfig]] = (),
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
) -> Model: ...  # fmt: skip
@overload
def load(
    folder: str | Path, *, base: None = None, operators: Sequence[type[OperatorConfig]] = (),
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
) -> nn.Module: ...  # fmt: skip
def load(
    folder: str | Path,
    *,
    base: nn.Module | None = None,
    operators: Sequence[type[OperatorConfig]] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The student saved in `folder`, in eval mode. Nothing in the folder is executed, nothing imported.

    Args:
        folder: written by `save`.
        base: a fresh model of the student's class, which stays as it is; needed if that is no transformer of diffusers.
        operators: classes of operators of your own in the student; those whose modules are imported are known already.
        device: where the weights go, each as it is read.
        dtype: of the floating-point weights; by default as they were saved.

    Raises:
        ArtifactError: files are missing, truncated or altered, describe something that cannot be rebuilt, or do not fit
            `base`; or the device or the dtype cannot be used, or `folder` is no path.
    """
    folder = folder_of(folder)
    try:
        with preferring(operators):
            student = _load(folder, base, _placing(device, dtype))
        # Tables that were not saved follow; diffusers' own `to` would warn of it.
        return nn.Module.to(student, device=device, dtype=dtype).eval()
    except ArtifactError:
        raise
    except Exception as error:  # what is read may be anything
        raise ArtifactError(f"{folder}: does not describe a model that can be rebuilt: {in_one_line(error)}") from error


def _load(folder: Path, base: nn.Module | None, place: Callable[[Tensor], Tensor]) -> nn.Module:
    description = read_description(folder)
    slots = {file.name: _slots(folder, file) for file in description.weights}
    try:
        most = MORE_TENSORS * sum(map(len, slots.values())) + SOME_TENSORS
        student = with_edits(_base(description, base, most), description.commits)
        for misfit in misfits(student, {name: slot for each in slots.values() for name, slot in each.items()}):
            raise ArtifactError(misfit)
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: does not describe a model that can be rebuilt: {error}") from error
    tensors: dict[str, Tensor] = {}
    for file in description.weights:
        with open_weights(folder, file) as stream:
            if read_header(stream, folder / file.name, file) != slots[file.name]:
                raise altered(folder / file.name, "it was changed while it was read")
            tensors |= read_tensors(stream, folder / file.name, slots[file.name], file.sha256, place)
    _fill(student, tensors)
    return student


def _placing(device: str | torch.device, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """What moves a tensor to where it is wanted."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArtifactError(f"dtype={dtype!r} is no floating-point dtype of torch; give one such as torch.bfloat16")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArtifactError(f"the device {str(device)!r} cannot be used: {first_line(error)}") from error
    return lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None)


def _slots(folder: Path, file: WeightsFile) -> dict[str, Slot]:
    with open_weights(folder, file) as stream:
        return read_header(stream, folder / file.name, file)


def _base(description: Description, base: nn.Module | None, most: int) -> nn.Module:
    """The model that was edited, without weights."""
    name = description.model_class
    if base is not None:
        return _checked_base(description, base)
    if description.base_config is None:
        raise ArtifactError(
            f"{name} is no model of diffusers; give a fresh one: surgery.load(folder, base={name}(...))"
        )
    model_class = transformer_class(name)
    if model_class is None:
        raise ArtifactError(
            f"{name} is not a model class of diffusers.models.transformers; only those are loaded without base="
        )
    return from_config(model_class, description.base_config, most)


def _checked_base(description: Description, base: nn.Module) -> nn.Module:
    """A copy of `base` without weights, if it is what was edited."""
    name = own_class(base).__name__
    if name != description.model_class:
        raise ArtifactError(f"base is a {name}, and the student was made from a {description.model_class}")
    if record_of(base) is not None:
        raise ArtifactError(
            "base was rewritten itself; give the model as it was before, for example surgery.undo(base)"
        )
    twin = without_weights(base).eval()
    share_hooks(base, twin)
    different = next(structural_differences(description.structure or {}, structure_of(twin)), None)
    if different is not None and description.structure is not None:
        raise ArtifactError(f"base is not what the student was made from: {different}")
    return twin


def _tied(student: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several in modules of their own: weights are put in name by name."""
    names: dict[int, list[str]] = {}
    for path, module in student.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def _fill(student: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put `tensors` into the student; buffers that are in no `state_dict` too."""
    weights = student.state_dict()
    for name in [name for name in tensors if name not in weights]:
        path, buffer = parent_and_name(name)
        setattr(student.get_submodule(path), buffer, tensors.pop(name))
    tied = _tied(student)
    student.load_state_dict(tensors, strict=True, assign=True)
    for first, *others in tied:
        for name in others:
            path, own = parent_and_name(name)
            setattr(student.get_submodule(path), own, student.get_parameter(first))
    empty = next((n for n, t in (*student.named_parameters(), *student.named_buffers()) if t.is_meta), None)
    if empty is not None:
        raise ArtifactError(f"the weights have no {empty}")
