"""Pipelines from folders, as a whole or their denoiser alone, and a call for one of which nothing else is known."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.errors import WiringError, first_line
from surgery.pipelines.drive import modules
from surgery.store.shard import content_of

INDEX = "model_index.json"
SIMPLE: dict[str, Any] = {"prompt": "a photograph", "class_labels": [0]}


def load_pipeline(folder: str | Path, dtype: torch.dtype = torch.float32, **given: Any) -> Any:
    """The pipeline that diffusers saved in `folder`, with the components that are `given` instead of its own.

    Args:
        folder: holds its index.
        dtype: of all components; left to itself, diffusers takes text encoders in that of their files and the rest in
            single precision, which does not run.
        **given: components.

    Raises:
        WiringError: there is none, or it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    if not (Path(folder) / INDEX).is_file():
        raise WiringError(f"{folder} holds no {INDEX}: give a folder written by a pipeline's save_pretrained")
    try:
        with _quiet():
            return DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, torch_dtype=dtype, **given)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise WiringError(f"the pipeline in {folder} cannot be loaded: {error}") from error


def from_hub(name: str) -> Path:
    """The folder that holds the pipeline of this id on the hub, which is downloaded unless it was before.

    Raises:
        WiringError: it cannot be fetched.
    """
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name))
    except Exception as error:  # of the network, of the hub, or that there is none
        raise WiringError(
            f"model {name!r} is no folder here, and no pipeline of this name can be fetched from the hub "
            f"({first_line(error)})"
        ) from error


class PipelineFolder:
    """A pipeline in a folder whose parts are in memory only while they are needed; what was taken from it stays."""

    def __init__(self, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Load nothing yet.

        Raises:
            WiringError: the folder holds no pipeline.
        """
        self.folder, self._device = Path(folder), device
        self._dtype = dtype
        self._taken: dict[str, Any] = {}
        self._pipeline: Any = None
        try:
            self._index = json.loads((self.folder / INDEX).read_text())
        except (OSError, ValueError) as error:
            raise WiringError(
                f"{self.folder} holds no {INDEX}: give a folder written by a pipeline's save_pretrained"
            ) from error

    @property
    def pipeline(self) -> Any:
        """The whole pipeline, on the device."""
        if self._pipeline is None:
            self._pipeline = load_pipeline(self.folder, self._dtype, **self._taken).to(self._device)
        return self._pipeline

    def take(self, name: str, device: str | None = None) -> Any:
        """A component, which stays in memory; without the others if these are not.

        Args:
            name: of the component.
            device: where it goes if it is loaded alone; None takes the pipeline's.

        Raises:
            WiringError: it cannot be loaded.
        """
        if name not in self._taken:
            self._taken[name] = self._alone(name, device) if self._pipeline is None else getattr(self._pipeline, name)
        return self._taken[name]

    def release(self) -> None:
        """Let go of all that was not taken."""
        self._pipeline = None

    def identity(self) -> dict[str, str]:
        """What tells the pipeline from others: digests of its files, those of the scheduler apart."""
        digests = {"model": hashlib.sha256(), "scheduler": hashlib.sha256()}
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder)
            digest = digests["scheduler" if name.parts[0] == "scheduler" else "model"]
            with path.open("rb") as file:
                digest.update(f"{name.as_posix()} ".encode() + hashlib.file_digest(file, "sha256").digest())
        return {name: digest.hexdigest() for name, digest in digests.items()}

    def _alone(self, name: str, device: str | None) -> Any:
        import diffusers

        _, class_name = self._index[name]
        component = getattr(diffusers, class_name, None)
        if component is None:
            raise WiringError(f"{self.folder}: {name} is a {class_name}, which is no class of diffusers")
        options = {"torch_dtype": self._dtype} if issubclass(component, nn.Module) else {}
        with _quiet():
            found = component.from_pretrained(str(self.folder / name), local_files_only=True, **options)
        return found.to(device or self._device) if isinstance(found, nn.Module) else found


def libraries() -> list[Any]:
    """The modules of those whose components pipelines have, as far as they are installed."""
    return [import_module(name) for name in ("diffusers", "transformers") if find_spec(name) is not None]


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of other libraries beside those of a run, nor that newer ones call `torch_dtype` by another name."""
    shown = [each.logging for each in libraries() if each.logging.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)
            yield
    finally:
        for each in shown:
            each.enable_progress_bar()


class LoadedPipeline:
    """A pipeline that is in memory, to be used as one in a folder is."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def take(self, name: str, device: str | None = None) -> Any:  # noqa: ARG002
        """A component, where it is."""
        return getattr(self.pipeline, name)

    def release(self) -> None:
        """All of it stays."""

    def identity(self) -> dict[str, str]:
        """What tells the pipeline from others: digests of its weights and of its scheduler."""
        weights, scheduler = hashlib.sha256(), self.pipeline.scheduler
        for name, part in modules(self.pipeline).items():
            for key, tensor in part.state_dict().items():
                weights.update(f"{name}.{key} {content_of(tensor)} ".encode())
        settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        described = f"{type(scheduler).__name__} {sorted(settings.items())}"
        return {"model": weights.hexdigest(), "scheduler": hashlib.sha256(described.encode()).hexdigest()}


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
