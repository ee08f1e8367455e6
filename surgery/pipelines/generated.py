"""What a pipeline makes from prompts: the samples of `Generated` data."""

from __future__ import annotations

import inspect
from typing import Any

from surgery.data.generated import Generated, Prompt, read_prompts
from surgery.errors import RecipeError
from surgery.pipelines.record import sample
from surgery.pipelines.tree import moved
from surgery.pipelines.wiring import Wiring
from surgery.store import Sample
from surgery.store.order import seeded


class Calls:
    """The calls of a pipeline that a recipe asks for, by number: one for each prompt in turn."""

    def __init__(self, pipeline: Any, generated: Generated) -> None:
        """Find the keyword that takes a prompt.

        Raises:
            RecipeError: there is no prompt, one is no label where labels are needed, or a keyword is not known.
        """
        known = inspect.signature(pipeline.__call__).parameters
        self._keyword = "prompt" if "prompt" in known else next(iter(known))  # pipelines of classes begin with theirs
        unknown = [] if "kwargs" in known else sorted(generated.call.keys() - known.keys())
        if unknown:
            raise RecipeError(f"data.call: {type(pipeline).__name__} has no keyword {', '.join(map(repr, unknown))}")
        self._prompts = [self._value(prompt) for prompt in read_prompts(generated)]
        self._generated = generated

    def __call__(self, number: int, *, steps: int | None = None, **more: Any) -> dict[str, Any]:
        """The keywords for the sample of this number; `steps` other than the data's, `more` keywords beside its own."""
        prompt = self._prompts[number % len(self._prompts)]
        count = steps or self._generated.steps
        return {**self._generated.call, self._keyword: prompt, "num_inference_steps": count, **more}

    def _value(self, prompt: Prompt) -> str | list[int]:
        if self._keyword == "prompt":
            return str(prompt)
        try:
            return [int(prompt)]
        except ValueError:
            raise RecipeError(f"data.prompts: {prompt!r} is no whole number, and {self._keyword} takes these") from None


class GeneratedSamples:
    """The samples of `Generated` data, each made when it is asked for: a source for a store."""

    def __init__(self, pipeline: Any, calls: Calls, wiring: Wiring, samples: int, seed: int) -> None:
        self._pipeline, self._calls, self._wiring, self._samples, self._seed = pipeline, calls, wiring, samples, seed

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, number: int) -> Sample:
        """The latents, and the arguments of each branch of guidance as in `Condition`, on the CPU.

        Raises:
            WiringError: the prompt is not wired as that which was measured.
        """
        generator = seeded(self._seed, "generated", number)
        made = sample(self._pipeline, self._calls(number, generator=generator), self._wiring)
        conditions = [condition.arguments for condition in made.conditions]
        return Sample(made.latents.cpu(), moved(conditions, "cpu"))
