"""The table of docs/scale.md: memory, settings and time of training large models on 1, 8 and 64 GPUs of 80 GB.

    python benchmarks/scale.py --save

Nothing of the models' size is made: memory is that of a rehearsed step, time is calculated; see `surgery.run.scale`.
"""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

from surgery.evaluate.report import count
from surgery.recipe import load_recipe
from surgery.run.scale import Scale

ROOT = Path(__file__).parents[1]
RECIPES = {
    "DiT-XL/2, 256 x 256": "dit_xl2_hyena_x_50.py",
    "PixArt-Sigma, 2K": "pixart_sigma_2k_hyena_x.py",
    "FLUX.1-dev, 1024 x 1024": "flux_neighbourhood.py",
    "Wan 2.1 14B, 480 x 832 x 81": "wan_windows.py",
}
SETTINGS = ("dtype=bfloat16", "distil.batch_size=64", "finetune.batch_size=64")
GPUS, MEMORY = (1, 8, 64), 80 * 10**9
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


def rows(title: str, file: str) -> list[dict[str, Any]]:
    scale = Scale(load_recipe(ROOT / "recipes" / file, SETTINGS))
    return [
        {"model": title, "gpus": gpus, **setting.plain()} for gpus in GPUS for setting in scale.stages(gpus, MEMORY)
    ]


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| model | GPUs | stage | settings | memory of a GPU | time | bound by |", "|---|---|---|---|---|---|---|"]
    for row in found:
        settings = ", ".join(f"`{each}`" for each in row["settings"]) or "-"
        memory = f"{count(row['memory'])}B" + ("" if row["fits"] else ", **does not fit**")
        time = timedelta(seconds=ceil(row["seconds"] / 60) * 60)
        lines.append(
            f"| {row['model']} | {row['gpus']} | {row['stage']} | {settings} | {memory} | {time} | {row['bound']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the page and benchmarks/results/scale.json")
    save = parser.parse_args().save
    found = [row for title, file in RECIPES.items() for row in rows(title, file)]
    print(table(found))
    if save:
        page = ROOT / "docs" / "scale.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(before + BEGIN + table(found) + END + rest.partition(END)[2])
        (ROOT / "benchmarks" / "results" / "scale.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
