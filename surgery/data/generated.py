"""Samples that the teacher makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, PositiveInt

from surgery.data.base import Data
from surgery.errors import RecipeError

Prompt = str | int


class Generated(Data):
    """Samples that the teacher makes in its own pipeline, as training data; no other data are needed.

    Attributes:
        prompts: texts, or labels where the pipeline takes classes; or a text file with one in each line. They are taken
            in turn.
        samples: how many are made, each from noise of its own.
        steps: of the scheduler, for each of them.
        call: further keywords of the pipeline, such as `height`, `guidance_scale` or `negative_prompt`.
    """

    kind: Literal["generated"] = "generated"
    prompts: tuple[Prompt, ...] | Path
    samples: PositiveInt
    steps: PositiveInt
    call: dict[str, JsonValue] = Field(default={})


def read_prompts(generated: Generated) -> tuple[Prompt, ...]:
    """The prompts, in their order; empty lines of a file do not count.

    Raises:
        RecipeError: there is none, or the file cannot be read.
    """
    prompts = generated.prompts
    if isinstance(prompts, Path):
        try:
            lines = prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"data.prompts: {prompts} cannot be read ({error}); name a text file") from error
        prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise RecipeError("data.prompts: there is no prompt; give one at least")
    return prompts
