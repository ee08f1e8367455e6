"""One forward pass of students and their teachers at full size, eager and compiled: PixArt-Sigma 2K, and Wan at 480p.

Usage: python benchmarks/students.py --rows FILE [--device cuda] [--smoke] [MODEL ...]

Random weights, in bfloat16 on a GPU. "pixart" is PixArt-Sigma at 2048 x 2048 (16,384 tokens, batch 2) with Hyena-X in
14 of its 28 layers, those of recipes/pixart_sigma_2k_hyena_x.py, for which the paper measured 1.43 on an H100, and in
all. "wan" is Wan 2.1 1.3B at 480 x 832 and 81 frames (32,760 tokens) with the neighbourhoods of recipes/wan_windows.py
in every second layer, in all, and in all by FlexAttention. Compiled is each block by itself, as blocks that are alike
share their code. Each row of FILE is the best of several passes, and the seconds of the first, compilation included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rows
import torch
from growth import seconds_of

import surgery
from surgery.graph import ModelGraph
from surgery.models.inputs import example_inputs
from surgery.models.presets import preset
from surgery.operators import NeighbourhoodAttention
from surgery.recipe import Recipe, load_recipe
from surgery.rewriting import Rule
from surgery.rules import replace_attention

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = {"pixart": ("pixart_sigma_2k_hyena_x.py", {}, 2), "wan": ("wan_windows.py", {}, 1)}
"""The recipe, what differs from the config of its model, and the samples."""
MODELS["wan"][1].update(num_attention_heads=12, ffn_dim=8960, num_layers=30)  # of Wan 2.1 1.3B, else as 14B
SMALL: dict[str, dict[str, Any]] = {
    "pixart": {
        "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 8,
        "sample_size": 8, "interpolation_scale": 1,
    },
    "wan": {
        "num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "num_layers": 2, "text_dim": 16,
        "_sizes": {"video_length": 3, "sample_height": 8, "sample_width": 12, "text_len": 4},
    },
}  # fmt: skip
SMALL_GRID = (3, 4, 6)
LEAST, MOST, SECONDS = 3, 8, 4.0
LIMIT = 75


def original(name: str, changes: dict[str, Any], device: str) -> tuple[ModelGraph, Recipe, dict[str, Any]]:
    """The traced teacher, the recipe, and inputs at the model's own size."""
    import diffusers

    file, own, samples = MODELS[name]
    recipe = load_recipe(RECIPES / file)
    config = {**(preset(recipe.model) or {}), **own, **changes}
    sizes = config.pop("_sizes", {})
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(diffusers, config["_class_name"]).from_config(config).eval()
    model.register_to_config(**sizes)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    inputs = {key: _as(value, dtype) for key, value in example_inputs(model, samples).items()}
    return surgery.trace(model.to(dtype), inputs), recipe, inputs


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def rules(recipe: Recipe, grid: tuple[int, ...] | None, device: str) -> Iterator[tuple[str, list[Rule]]]:
    """The students of a model by name, each by its rules."""
    (rule,) = recipe.rules
    operator, role = rule.operator, "self_attention"  # type: ignore[attr-defined]
    if isinstance(operator, NeighbourhoodAttention) and grid:
        operator = NeighbourhoodAttention(window=3, grid=grid)
    yield "recipe", [rule.model_copy(update={"operator": operator})]
    yield "all layers", [replace_attention(operator, role=role)]
    if isinstance(operator, NeighbourhoodAttention) and device == "cuda":
        flex = operator.model_copy(update={"backend": "flex-attention"})
        yield "all layers, FlexAttention", [replace_attention(flex, role=role)]


def figures(model: torch.nn.Module, inputs: dict[str, Any], device: str) -> dict[str, float]:
    """The row of one model."""
    start = time.perf_counter()
    seconds_of(model, device=device, **inputs)
    first = time.perf_counter() - start
    with rows.alone():
        runs: list[float] = []
        while len(runs) < LEAST or (len(runs) < MOST and sum(runs) < SECONDS):
            runs.append(seconds_of(model, device=device, **inputs))
    return {"seconds": min(runs), "first_call": first}


def measure(name: str, file: Path, changes: dict[str, Any], device: str) -> None:
    """All rows of one model."""
    grid = SMALL_GRID if changes and name == "wan" else None
    what = {"benchmark": "students", "model": name}
    with rows.measured(file, LIMIT, **what, student="(traced)") as row:
        graph, recipe, inputs = original(name, changes, device)
        row["layers"] = len(graph.layers)
    if "error" in row:
        return
    students: list[tuple[str, list[Rule]]] = [("original", []), *rules(recipe, grid, device)]
    for compiled in (False, True):
        for student, chosen in students:
            if compiled and "Flex" in student:
                continue
            with rows.measured(file, LIMIT, **what, student=student, compiled=compiled) as row:
                model = surgery.rewrite(graph, chosen) if chosen else graph.model
                row["replaced"] = len(surgery.plan(graph, chosen).edits) if chosen else 0
                if compiled:
                    torch._dynamo.reset()
                    for path in graph.layers:
                        model.get_submodule(path).compile(dynamic=False)
                row |= figures(model, inputs, device)
            del model
            if device == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    for name in options.models:
        measure(name, options.rows, SMALL[name] if options.smoke else {}, options.device)


if __name__ == "__main__":
    main()
