"""One forward pass of PixArt-Sigma at 2048 x 2048: the original against Hyena-X in 14 of its 28 layers, and in all.

Batch 2, random weights; the layers and the operator are those of recipes/pixart_sigma_2k_hyena_x.py. The paper measured
1.43 on an H100.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

RECIPE = Path(__file__).parent.parent / "recipes" / "pixart_sigma_2k_hyena_x.py"
BATCH, TEXT, RUNS = 2, 300, 5


def models(changes: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """The original and both students, on one device.

    Args:
        changes: what differs from the published config.
        device: where they are built.
        dtype: of their weights.
    """
    import diffusers
    import torch

    import surgery
    from surgery.models.presets import preset
    from surgery.recipe import load_recipe
    from surgery.rules import replace_attention

    recipe = load_recipe(RECIPE)
    config = {**(preset(recipe.model) or {}), **changes}
    with torch.device(device):
        original = getattr(diffusers, config["_class_name"]).from_config(config).eval().to(dtype)
    graph = surgery.trace(original, inputs(original, device, dtype))
    every_layer = [replace_attention(recipe.rules[0].operator, role="self_attention")]
    return {
        "original": original,
        "hyena_x_14_of_28": surgery.rewrite(graph, recipe.rules),
        "hyena_x_28_of_28": surgery.rewrite(graph, every_layer),
    }


def inputs(model: Any, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Noise, text and a timestep at the model's own size."""
    import torch

    side, config = model.config.sample_size, model.config
    return {
        "hidden_states": torch.randn(BATCH, config.in_channels, side, side, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(BATCH, TEXT, config.caption_channels, device=device, dtype=dtype),
        "encoder_attention_mask": torch.ones(BATCH, TEXT, device=device, dtype=torch.long),
        "timestep": torch.full((BATCH,), 500, device=device),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def compare(changes: dict[str, Any], device: str) -> dict[str, dict[str, float]]:
    """The best of several interleaved passes of each, and how many times faster than the original it is."""
    import torch
    from growth import seconds_of

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    built = models(changes, device, dtype)
    given = inputs(built["original"], device, dtype)
    runs: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(RUNS):
        for name, model in built.items():
            runs[name].append(seconds_of(model, device=device, **given))
    best = {name: min(each) for name, each in runs.items()}
    return {name: {"seconds": each, "speedup": best["original"] / each} for name, each in best.items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """One line for each model."""
    return "\n".join(f"{name:17}{1e3 * r['seconds']:10,.1f} ms{r['speedup']:7.2f} x" for name, r in rows.items())
