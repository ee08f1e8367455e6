"""How a recipe fits into GPUs, on the terminal."""

from __future__ import annotations

import re
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from surgery.cli.output import console, print_json, prints_to_stderr
from surgery.errors import RecipeError

if TYPE_CHECKING:
    from surgery.recipe import Recipe

UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def bytes_of(text: str) -> int:
    """The bytes that a text such as "80GB" names.

    Raises:
        RecipeError: it names none.
    """
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if found is None:
        raise RecipeError(f"--memory {text}: write it as a number and one of {', '.join(UNITS)}, e.g. 80GB")
    return int(float(found[1]) * UNITS[found[2]])


def show_scale(recipe: Recipe, gpus: int, memory: str, as_json: bool) -> None:
    """Memory, settings and time of each stage on so many GPUs."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from surgery.evaluate.report import count
    from surgery.run.scale import Scale

    available = bytes_of(memory)
    if gpus < 1:
        raise RecipeError(f"--gpus {gpus}: name at least 1")
    with prints_to_stderr():
        stages = Scale(recipe).stages(gpus, available)
    if as_json:
        return print_json({"gpus": gpus, "memory": available, "stages": [stage.plain() for stage in stages]})
    table = Table("stage", "settings", "memory of a GPU", "", "time", "bound by", box=box.SIMPLE_HEAD, pad_edge=False)
    for stage in stages:
        fits = Text("fits") if stage.fits else Text("does not fit", style="bold red")
        settings = ", ".join(stage.settings) or "as the recipe has them"
        time = str(timedelta(seconds=ceil(stage.seconds)))
        table.add_row(stage.stage, settings, f"{count(stage.memory)}B", fits, time, stage.bound)
    console().print(table)
    console().print("Memory by a rehearsed step; time by operations and bytes of H100s, not measured.", style="dim")
    return None
