"""Tracing against `torch.export`, at full size on the meta device with dynamic sizes.

Usage: python benchmarks/trace.py [--json] [--save]

Each measurement runs in a process of its own; its peak is that of the whole process, Python and torch included. The last
line with --json is {"MODEL": {"seconds": s, "export_seconds": s, "peak_gb": g}, ...}; --save keeps it in results/.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from machine import machine, save

Inputs = dict[str, Any]
Model = tuple[str, dict[str, Any], Callable[[Any], Inputs], dict[str, tuple[int, ...]]]


def dit_inputs(torch: Any) -> Inputs:
    labels = torch.zeros(2, dtype=torch.long)
    return {"hidden_states": torch.randn(2, 4, 32, 32), "timestep": labels, "class_labels": labels}


def flux_inputs(torch: Any) -> Inputs:
    return {
        "hidden_states": torch.randn(2, 4096, 64),
        "encoder_hidden_states": torch.randn(2, 512, 4096),
        "pooled_projections": torch.randn(2, 768),
        "timestep": torch.rand(2),
        "guidance": torch.rand(2),
        "img_ids": torch.zeros(4096, 3),
        "txt_ids": torch.zeros(512, 3),
    }


def wan_inputs(torch: Any) -> Inputs:
    return {
        "hidden_states": torch.randn(2, 16, 21, 60, 104),
        "timestep": torch.zeros(2, dtype=torch.long),
        "encoder_hidden_states": torch.randn(2, 512, 4096),
    }


# Class, configuration of the published checkpoint, inputs, and the dimensions that are dynamic.
MODELS: dict[str, Model] = {
    "DiT-XL/2": (
        "DiTTransformer2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
         "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000},
        dit_inputs,
        {"hidden_states": (0,), "timestep": (0,), "class_labels": (0,)},
    ),
    "FLUX.1-dev": (
        "FluxTransformer2DModel",
        {"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
         "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
         "axes_dims_rope": (16, 56, 56)},
        flux_inputs,
        {"hidden_states": (0, 1), "encoder_hidden_states": (0, 1), "pooled_projections": (0,), "timestep": (0,),
         "guidance": (0,), "img_ids": (0,), "txt_ids": (0,)},
    ),
    "Wan-14B": (
        "WanTransformer3DModel",
        {"patch_size": (1, 2, 2), "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16,
         "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 13824, "num_layers": 40,
         "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"},
        wan_inputs,
        {"hidden_states": (0, 2, 3, 4), "timestep": (0,), "encoder_hidden_states": (0, 1)},
    ),
}  # fmt: skip


def measure(kind: str, name: str) -> dict[str, Any]:
    """Trace or export a model in this process; seconds, and the peak resident memory in GB."""
    import diffusers
    import torch

    import surgery

    class_name, config, make_inputs, dynamic = MODELS[name]
    with torch.device("meta"):
        model = getattr(diffusers, class_name)(**config).eval()
        inputs = make_inputs(torch)
    surgery.trace  # noqa: B018 - importing is no part of tracing
    start = time.perf_counter()
    if kind == "trace":
        surgery.trace(model, inputs)
    else:
        shapes = {key: dict.fromkeys(dynamic[key], torch.export.Dim.AUTO) for key in inputs}
        torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak_gb": peak}


def in_own_process(kind: str, name: str) -> dict[str, Any]:
    """`measure` in a new process; {"error": ...} if it fails."""
    command = [sys.executable, __file__, "--measure", kind, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(name: str) -> dict[str, Any]:
    """The figures of one model; a line about them goes to stderr."""
    traced, exported = in_own_process("trace", name), in_own_process("export", name)
    if "error" in traced:
        raise SystemExit(f"{name}: {traced['error']}")
    seconds = exported.get("seconds")
    row = {"seconds": traced["seconds"], "export_seconds": seconds, "peak_gb": traced["peak_gb"]}
    against = f"{seconds:.1f} s, {seconds / row['seconds']:.1f} x" if seconds else f"fails: {exported['error']}"
    print(f"{name:12} {row['seconds']:5.2f} s, peak {row['peak_gb']:.2f} GB; torch.export {against}", file=sys.stderr)
    return row


def main() -> None:
    rows = {name: compare(name) for name in MODELS}
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("trace", rows))
    if "--json" in sys.argv:
        print(json.dumps(rows))


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure(*sys.argv[-2:])))
    else:
        main()
