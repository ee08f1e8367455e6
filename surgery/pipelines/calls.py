"""The calls of a pipeline that a recipe asks for: which keyword takes a text or a label is found by trying."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.data.generated import Prompt
from surgery.errors import RecipeError, WiringError, in_one_line
from surgery.pipelines.record import first_step
from surgery.pipelines.tree import leaves, same

TEXTS, LABELS = ("a", "b"), ([0], [1])
"""What is tried: two texts, and two labels, that a denoiser can be told apart by."""


@dataclass(frozen=True)
class Calls:
    """Calls of a pipeline, by number: one for each prompt in turn.

    Attributes:
        call: the keywords that all have in common.
        prompts: texts or labels; none where `call` says everything.
        keyword: what takes a prompt.
        labels: whether that is a label.
        steps: of the scheduler, unless a call is asked for with others.
    """

    call: dict[str, Any]
    prompts: tuple[Prompt, ...]
    keyword: str
    labels: bool
    steps: int

    def __call__(self, number: int, *, steps: int | None = None, **more: Any) -> dict[str, Any]:
        """The keywords for the sample of this number, `more` beside its own."""
        return self.of(self.prompt(number) if self.prompts else None, steps=steps, **more)

    def together(self, numbers: Sequence[int], **more: Any) -> dict[str, Any]:
        """The keywords of one call for several samples, where the pipeline takes a list of prompts.

        Raises:
            RecipeError: there are no prompts to put into a list.
        """
        if not self.prompts:
            raise RecipeError("without prompts, a call is for one sample")
        prompts = [self.prompt(number) for number in numbers]
        listed = [int(prompt) if self.labels else str(prompt) for prompt in prompts]
        return {**self(numbers[0], **more), self.keyword: listed}

    def prompt(self, number: int) -> Prompt:
        """The prompt for the sample of this number."""
        return self.prompts[number % len(self.prompts)]

    def of(self, prompt: Prompt | None, *, steps: int | None = None, **more: Any) -> dict[str, Any]:
        """The keywords for a prompt."""
        given = {} if prompt is None else {self.keyword: [int(prompt)] if self.labels else str(prompt)}
        return {**self.call, **given, "num_inference_steps": steps or self.steps, **more}


def calls_of(pipeline: Any, call: Mapping[str, Any], prompts: Sequence[Prompt], steps: int) -> Calls:
    """Find the keyword of `pipeline` that takes prompts.

    Raises:
        RecipeError: a keyword of `call` is not known, or a prompt is no label where labels are needed.
        WiringError: no keyword takes a text or a label.
    """
    known = inspect.signature(pipeline.__call__).parameters
    unknown = [] if "kwargs" in known else sorted(call.keys() - known.keys())
    if unknown:
        raise RecipeError(f"data.call: {type(pipeline).__name__} has no keyword {', '.join(map(repr, unknown))}")
    if not prompts:
        return Calls(dict(call), (), "", False, steps)
    keyword, _ = _keyword_for(pipeline, call, TEXTS)
    labels = False
    if keyword is None:
        keyword, _ = _keyword_for(pipeline, call, LABELS)
        labels = keyword is not None
    if keyword is None:
        keyword, why = _keyword_for(pipeline, call, [str(prompts[0])])
    if keyword is None:
        raise WiringError(f"{type(pipeline).__name__} runs with no text or label: {why}{_strangers(pipeline)}")
    if labels:
        _require_labels(pipeline, call, prompts, keyword)
    return Calls(dict(call), tuple(prompts), keyword, labels, steps)


def _keyword_for(pipeline: Any, call: Mapping[str, Any], values: Sequence[Any]) -> tuple[str | None, str]:
    """The first keyword that the pipeline runs with, and whose values reach the denoiser.

    Returns:
        None, and why the first one that was tried does not serve, if there is no such keyword.
    """
    reasons: list[str] = []
    for name in inspect.signature(pipeline.__call__).parameters:
        if name in call:
            continue
        try:
            given = [_given(pipeline, {**call, name: value}) for value in values]
        except Exception as error:  # whatever a pipeline says to a value that it was not made for
            reasons.append(f"{name}={values[0]!r} ends in {type(error).__name__}: {in_one_line(error, 200)}")
            continue
        if len(given) == 1 or not _equal(*given):
            return name, ""
        reasons.append(f"{name} does not reach the denoiser")
    return None, reasons[0] if reasons else "it has none"


def _equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(same(leaf, two[path]) for path, leaf in one.items())


def _strangers(pipeline: Any) -> str:
    """What a text encoder does not know of the tokens that its tokenizer gives, which is a mistake in the pipeline."""
    parts = pipeline.components
    for name in (name for name in parts if name.startswith("tokenizer") and parts[name] is not None):
        encoder = name.replace("tokenizer", "text_encoder")
        table = getattr(parts.get(encoder), "get_input_embeddings", lambda: None)()
        tokens, known = len(parts[name]), getattr(table, "num_embeddings", None)
        if known is not None and tokens > known:
            return f"; the pipeline's {encoder} knows {known:,} tokens, and its {name} gives {tokens:,}: mend it"
    return ""


def _given(pipeline: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """What the denoiser is given in the first step."""
    calls = first_step(pipeline, {**call, "num_inference_steps": 2}).calls
    return leaves([each.arguments for each in calls if each.model == calls[-1].model])


def _require_labels(pipeline: Any, call: Mapping[str, Any], prompts: Sequence[Prompt], keyword: str) -> None:
    """Refuse what is no number, and the least and the largest number if the pipeline does not run with them."""
    numbers = []
    for prompt in prompts:
        try:
            numbers.append(int(prompt))
        except ValueError:
            raise RecipeError(f"data.prompts: {prompt!r} is no whole number, and {keyword} takes these") from None
    for number in {min(numbers), max(numbers)}:
        try:
            _given(pipeline, {**call, keyword: [number]})
        except Exception as error:  # whatever a pipeline says to a value that it was not made for
            raise RecipeError(
                f"data: {type(pipeline).__name__} does not take {keyword}={number}: {in_one_line(error, 200)}"
            ) from error
