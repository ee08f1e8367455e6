"""Pretrained models: the embedded one, folders written by diffusers, and models on the hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from surgery.artifact import is_artifact, load
from surgery.artifact.rebuild import transformer_class
from surgery.digits.bench import BENCHES
from surgery.errors import ArtifactError, RecipeError, first_line
from surgery.models.presets import preset, presets
from surgery.recording.own_modes import OnMeta
from surgery.wording import nearest

BUILT_IN = {bench.model: bench.folder for bench in BENCHES}


def load_skeleton(name: str) -> nn.Module:
    """The model `name` for planning: without weights, on the meta device, if its config comes with surgery.

    Any other model is loaded as by `load_pretrained`.

    Raises:
        RecipeError, ArtifactError: see `load_pretrained`.
    """
    if preset(name) is None:
        return load_pretrained(name).model
    with OnMeta():
        return _of_preset(name)


def load_random(name: str, seed: int = 0) -> nn.Module:
    """The model `name`, whose config comes with surgery, with random weights that depend on `seed` alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _of_preset(name)


def _of_preset(name: str) -> nn.Module:
    import diffusers

    config = preset(name)
    assert config is not None, "its config comes with surgery"
    sizes = config.pop("_sizes", {})
    model: Any = getattr(diffusers, config["_class_name"]).from_config(config)
    model.register_to_config(**sizes)
    made: nn.Module = model.eval()
    return made


class Pretrained:
    """A diffusion transformer in eval mode, and the scheduler that holds its q(z_t | z)."""

    def __init__(self, name: str, model: Any, scheduler: Any = None) -> None:
        self.name = name
        self.model: nn.Module = model
        self._scheduler = scheduler

    def __repr__(self) -> str:
        params = sum(parameter.numel() for parameter in self.model.parameters())
        return f"Pretrained({self.name!r}, {type(self.model).__name__}, {params:,} parameters)"

    @property
    def scheduler(self) -> Any:
        """The scheduler of diffusers, of the class that was saved.

        Raises:
            ArtifactError: none was saved with the model.
        """
        if self._scheduler is None:
            raise ArtifactError(
                f"model {self.name!r} has no scheduler_config.json: save its scheduler into the same folder"
            )
        return self._scheduler


def load_pretrained(name: str, device: str = "cpu") -> Pretrained:
    """A pretrained diffusers transformer and its scheduler.

    Args:
        name: a built-in name (`digits-dit`, `fashion-dit`), a folder written by `surgery.save`, a folder written by
            diffusers' `save_pretrained` (of the model, or of a pipeline with `transformer/` and `scheduler/`), or the id
            of such a model or pipeline on the hub, which is downloaded.
        device: where the model goes.

    Raises:
        RecipeError: there is no such model.
        ArtifactError: there is one, but it cannot be used.
    """
    path = BUILT_IN.get(name, Path(name))
    if is_artifact(path / "transformer"):  # a pipeline that held a student
        scheduler = _load_scheduler(name, str(path), "transformer", local=True)
        pretrained = Pretrained(name, load(path / "transformer"), scheduler)
    elif is_artifact(path):
        pretrained = Pretrained(name, load(path), _load_scheduler(name, str(path), None, local=True))
    elif path.is_dir():
        subfolder = "transformer" if (path / "transformer" / "config.json").is_file() else None
        if subfolder is None and not (path / "config.json").is_file():
            raise ArtifactError(
                f"folder {path} holds neither config.json nor transformer/config.json: "
                "give a folder written by diffusers' save_pretrained"
            )
        pretrained = _load(name, str(path), subfolder, local=True)
    elif path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise RecipeError(f"unknown model {name!r}: {_hint(name)}")
    else:
        pretrained = _from_hub(name)
    pretrained.model.to(device)
    return pretrained


def _hint(name: str) -> str:
    near = nearest(name, (*BUILT_IN, *presets())).removeprefix(", ")
    return near or f"use {' or '.join(map(repr, BUILT_IN))}, a folder, or the id of a model on the hub"


def _from_hub(name: str) -> Pretrained:
    for subfolder in ("transformer", None):
        try:
            _read_config(name, subfolder, local=False)
        except OSError as error:
            failure = error
        else:
            return _load(name, name, subfolder, local=False)
    reason = first_line(failure)
    if isinstance(failure.__context__, LocalEntryNotFoundError):  # diffusers says that the file is not there
        reason = "it cannot be reached, and its cache has no such model"
    raise RecipeError(
        f"model {name!r} is not a folder here and cannot be fetched from the hub ({reason}): {_hint(name)}"
    )


def _load(name: str, source: str, subfolder: str | None, *, local: bool) -> Pretrained:
    """Load from `source`, a folder if `local`, else a hub id; a model outside of a pipeline lies in its root."""
    model_class = _transformer_class(name, source, subfolder, local)
    try:
        model, report = model_class.from_pretrained(
            source,
            subfolder=subfolder,
            local_files_only=local,
            output_loading_info=True,
            low_cpu_mem_usage=find_spec("accelerate") is not None,
        )
    except Exception as error:  # whatever a class does with values of a config that it does not expect
        raise ArtifactError(f"model {name!r} cannot be loaded: {first_line(error)}") from error
    for problem in ("missing_keys", "unexpected_keys"):
        if report[problem]:
            raise ArtifactError(
                f"model {name!r} cannot be loaded: {problem.replace('_', ' ')} in its weights: "
                f"{', '.join(sorted(report[problem])[:3])}; save it again with the diffusers version in use"
            )
    return Pretrained(name, model.eval(), _load_scheduler(name, source, subfolder, local))


def _transformer_class(name: str, source: str, subfolder: str | None, local: bool) -> Any:
    try:
        config = _read_config(source, subfolder, local)
        class_name = str(config.get("_class_name", "none"))
    except Exception as error:  # JSON of any other shape
        raise ArtifactError(f"the config of model {name!r} cannot be read: {first_line(error)}") from error
    model_class = transformer_class(class_name)
    if model_class is None:
        raise ArtifactError(
            f"model {name!r} is not a diffusers transformer: its config.json names the class {class_name!r}"
        )
    return model_class


def _read_config(source: str, subfolder: str | None, local: bool) -> dict[str, Any]:
    from diffusers import DiTTransformer2DModel

    # Any model class reads the config.json of all of them.
    config: dict[str, Any] = DiTTransformer2DModel.load_config(source, subfolder=subfolder, local_files_only=local)
    return config


def _load_scheduler(name: str, source: str, subfolder: str | None, local: bool) -> Any:
    """The scheduler that was saved with the model; None without one."""
    import diffusers

    folder = None if subfolder is None else "scheduler"
    try:
        # Any scheduler class reads the config of all of them.
        config = diffusers.DDPMScheduler.load_config(source, subfolder=folder, local_files_only=local)
        return getattr(diffusers, config["_class_name"]).from_config(config)
    except OSError:
        return None
    except Exception as error:  # JSON of any other shape, no class of diffusers, values that are wrong
        raise ArtifactError(
            f"the scheduler of model {name!r} cannot be read: {first_line(error)}; save it again"
        ) from error
