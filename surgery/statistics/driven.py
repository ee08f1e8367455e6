"""What a model is run on while it is observed: the calls of its pipeline, or made-up inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgery.artifact.rebuild import is_transformer
from surgery.errors import SurgeryError, WiringError
from surgery.models.inputs import example_inputs
from surgery.pipelines.drive import Forward, Listener, Step, drive, modules
from surgery.pipelines.record import undecoded
from surgery.pipelines.tree import Arguments
from surgery.statistics.observer import Observer


def denoiser_of(pipeline: Any) -> str:
    """The name of the pipeline's diffusion transformer; of several the first.

    Raises:
        WiringError: it has none.
    """
    found = [name for name, part in modules(pipeline).items() if is_transformer(type(part))]
    if not found:
        raise WiringError(f"{type(pipeline).__name__} has no diffusion transformer that could be analyzed")
    return found[0]


def observe_calls(
    pipeline: Any, component: str, calls: Iterable[Mapping[str, Any]], observer: Observer, advance: Callable[[], None]
) -> None:
    """Run a pipeline, without decoding, with what `observer` gives in the place of a component.

    Args:
        pipeline: left as it was.
        component: name of the observed model.
        calls: keywords of each run.
        observer: of that model.
        advance: called after each step.

    Raises:
        WiringError: the pipeline does not run, or does not run the component.
    """
    for call in calls:
        try:
            drive(pipeline, undecoded(pipeline, call), _Observing(component, observer, advance))
        except SurgeryError:
            raise
        except Exception as error:  # of the pipeline's own code, to keywords that it cannot use, for example
            raise WiringError(f"{type(pipeline).__name__} does not run to its end: {error!r}") from error
    if not observer.forwards:
        raise WiringError(f"{type(pipeline).__name__} does not run its {component}: there is nothing to analyze")


def observe_inputs(model: nn.Module, observer: Observer, seeds: Iterable[int], advance: Callable[[], None]) -> None:
    """Run a model on made-up inputs, drawn anew for each of `seeds`."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    for seed in seeds:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            observer(example_inputs(model))
        advance()


class _Observing(Listener):
    """Lets the observer run its model."""

    def __init__(self, component: str, observer: Observer, advance: Callable[[], None]) -> None:
        self._component, self._observer, self._advance = component, observer, advance

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:
        return self._observer(arguments) if model == self._component else forward(**arguments)

    def step(self, seen: Step, previous: Tensor) -> Tensor:  # noqa: ARG002
        self._advance()
        return previous
