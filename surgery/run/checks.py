"""What can be known to be wrong with a run before anything is written, and what a resumed run must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

from surgery.artifact.saving import require_savable
from surgery.device import require_device
from surgery.errors import RecipeError
from surgery.files import require_folder
from surgery.parallel.group import by_first, size
from surgery.pipelines.times import Uniform
from surgery.recipe import Recipe
from surgery.rewriting.rule import Rule
from surgery.run.folder import RunFolder
from surgery.run.prepare import Opened, Prepared
from surgery.training.checkpoint import digest
from surgery.training.config import StageConfig
from surgery.training.distil import Distil
from surgery.training.finetune import Finetune
from surgery.training.held import require_packages
from surgery.training.objective import NAMED
from surgery.training.recorded import RecordedData
from surgery.training.wired import WiredData

LARGEST = 2**31 - 1

Identity = dict[str, str]
"""What a run depends on besides the text of its recipe: a SHA-256 of each thing, by the words for it in an error."""


def require_outputs(recipe: Recipe, out: str | Path, *, resume: bool) -> None:
    """Check, before anything is loaded, that a run of `recipe` may write to `out` and to its library of operators.

    Raises:
        RecipeError: it may not, see `RunFolder.require`.
    """
    RunFolder.require(out, recipe.model_dump(mode="json"), resume=resume)
    by_first(partial(require_folder, recipe.distil.library, "distil.library"))


def check_run(prepared: Prepared) -> None:
    """Raise an error if the run could not come to its end.

    Raises:
        RecipeError: a number is too large, the pipeline takes no guidance, a device cannot be used, or loss weights
            do not fit the scheduler.
        ArtifactError: the student could not be saved.
    """
    check_opened(prepared)
    require_savable(prepared.teacher.model, prepared.plan.edits)


def require_divisible(recipe: Recipe) -> None:
    """Raise RecipeError if the weights of a run cannot be divided among its processes."""
    if size() == 1:
        raise RecipeError("--shard: one process alone divides nothing; add --gpus, or start several by torchrun")
    for name, stage in _stages(recipe):
        if stage.teacher_weights is not None:
            raise RecipeError(
                f"--shard: {name}.teacher_weights={stage.teacher_weights!r} is not divided; leave one out"
            )


def check_opened(opened: Opened) -> None:
    """Raise RecipeError for what `check_run` finds wrong whatever the plan."""
    require_moderate(opened.recipe.model_dump(mode="json", exclude={"seed", "rules"}))
    if opened.recipe.evaluate is not None:
        opened.sampler.require(opened.recipe.evaluate)
    _require_teacher(opened.recipe)
    _require_ema_device(opened.recipe.finetune)
    _require_fitting_weights(opened)
    _require_what_is_recorded(opened)


def _stages(recipe: Recipe) -> list[tuple[str, StageConfig]]:
    """Those that are not left out, by name."""
    stages: dict[str, StageConfig] = {"distil": recipe.distil, "finetune": recipe.finetune}
    return [(name, stage) for name, stage in stages.items() if stage.steps]


def _require_teacher(recipe: Recipe) -> None:
    """A teacher in less memory is one that is learnt from, and not compiled."""
    for name, stage in _stages(recipe):
        how = stage.teacher_weights
        if how is None:
            continue
        require_packages(how)
        if isinstance(stage, Finetune) and stage.parts == NAMED["data"]:
            raise RecipeError(
                f"{name}.teacher_weights: nothing is learnt from the teacher; leave it out, or set a target"
            )
        if isinstance(stage, Distil) and stage.compile:
            raise RecipeError(f"{name}.compile: a teacher with teacher_weights={how!r} is not compiled; leave one out")


def _require_ema_device(config: Finetune) -> None:
    """The average of the weights can be kept where the recipe says."""
    if config.steps and config.ema_device is not None:
        try:
            require_device(config.ema_device)
        except RecipeError as error:
            raise RecipeError(f"finetune.ema_device: {error}") from None


def _require_fitting_weights(prepared: Opened) -> None:
    weights, data = prepared.recipe.finetune.weights, prepared.data
    reason = weights.misfit(data.processes[0]) if weights is not None and isinstance(data, WiredData) else None
    if reason is not None:
        raise RecipeError(f"finetune.weights: {type(weights).__name__} {reason}; choose others, or leave them out")


def _require_what_is_recorded(prepared: Opened) -> None:
    """Recorded forwards have their own times, and the teacher as the only target."""
    if not isinstance(prepared.data, RecordedData):
        return
    distil, finetune = prepared.recipe.distil, prepared.recipe.finetune
    wrong = {
        "finetune.target: must be 'teacher'": finetune.parts.data > 0,
        "finetune.weights: must be left out": finetune.weights is not None,
        "finetune.times: must be left out": finetune.times != Uniform(),
        "distil.times: must be left out": distil.times != Uniform(),
    }
    lines = [f"{words}; {prepared.data.why}" for words, is_wrong in wrong.items() if is_wrong]
    if lines:
        raise RecipeError("\n".join(lines))


def require_moderate(values: Any, path: str = "") -> None:
    """Raise RecipeError if a whole number among the JSON `values` is larger than any that makes sense."""
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            require_moderate(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, int) and values > LARGEST:
        raise RecipeError(f"{path}: {values} is too large; use at most {LARGEST}")


def identity_of(opened: Opened, planned: str) -> Identity:
    """What a resumed run must have in common with the one that was begun; `planned` is its plan as JSON."""
    code = "\n".join(words for rule in opened.recipe.rules for words in _code_of(type(rule)))
    return {
        "the plan": _sha(planned),
        "the code of its rules": _sha(code),
        "the teacher's weights": digest(opened.teacher.model.state_dict()),
        **{f"the {name}": sha for name, sha in opened.data.identity.items()},
    }


def _code_of(rule: type[Rule]) -> Iterator[str]:
    """The functions of a rule's class and of those that it comes from, as compiled: comments do not count."""
    for cls in rule.__mro__:
        if issubclass(cls, Rule) and cls is not Rule:
            yield cls.__qualname__
            for name, value in vars(cls).items():
                function = getattr(value, "fget", value)  # of a property
                if isinstance(code := getattr(function, "__code__", None), CodeType):
                    yield f"{name} {_compiled(code)}"


def _compiled(code: CodeType) -> str:
    constants = [_compiled(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _constant(value: Any) -> str:
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
