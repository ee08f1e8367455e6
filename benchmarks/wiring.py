"""Measuring how a pipeline feeds its transformer, with latents and texts of full size.

Usage: python benchmarks/wiring.py [--json] [--save]

Transformers and autoencoders are tiny and the transformer's forward is stood in for, so that what is timed is the
measuring. Each measurement runs in a process of its own; its peak is that of the whole process, Python and torch
included. The last line with --json is {"CASE": {"seconds": s, "processor_seconds": p, "peak_gb": g}, ...}; --save keeps
it in results/.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time
from typing import Any

from machine import machine, save

Case = tuple[Any, dict[str, Any]]


def flux(torch: Any, diffusers: Any) -> Case:
    """FLUX.1-dev at 1024 x 1024: 4,096 tokens of 64 channels."""
    parts = {
        "transformer": diffusers.FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, norm_num_groups=2,
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }  # fmt: skip
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    text = {"prompt_embeds": torch.randn(1, 512, 4096), "pooled_prompt_embeds": torch.randn(1, 768)}
    return diffusers.FluxPipeline(**parts, **absent), {**text, "height": 1024, "width": 1024}


def wan(torch: Any, diffusers: Any) -> Case:
    """Wan 2.1 at 832 x 480 and 81 frames: 16 channels, 21 x 60 x 104; two forwards a step, for guidance."""
    parts = {
        "transformer": diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=4096, freq_dim=8,
            ffn_dim=16, num_layers=1,
        ),
        "vae": diffusers.AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        "scheduler": diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    }  # fmt: skip
    texts = {name: torch.randn(1, 512, 4096) for name in ("prompt_embeds", "negative_prompt_embeds")}
    pipeline = diffusers.WanPipeline(tokenizer=None, text_encoder=None, **parts)
    return pipeline, {**texts, "height": 480, "width": 832, "num_frames": 81}


CASES = {
    f"{name}, {dtype}": (make, dtype)
    for name, make in {"FLUX.1-dev 1024": flux, "Wan 480p x 81": wan}.items()
    for dtype in ("float32", "bfloat16")
}


def measure(name: str) -> dict[str, float]:
    """Measure a wiring in this process; seconds, and the peak resident memory in GB."""
    import diffusers
    import torch

    import surgery

    make, dtype = CASES[name]
    pipeline, call = make(torch, diffusers)
    pipeline.to(getattr(torch, dtype))
    call = {key: value.to(getattr(torch, dtype)) if hasattr(value, "to") else value for key, value in call.items()}
    pipeline.transformer.forward = _standing_in(pipeline.transformer.forward)
    surgery.measure  # noqa: B018 - importing is no part of measuring
    start, processor = time.perf_counter(), time.process_time()
    surgery.measure(pipeline, call)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "processor_seconds": processor, "peak_gb": peak}


def _standing_in(forward: Any) -> Any:
    @functools.wraps(forward)  # pipelines look at the signature
    def halved(hidden_states: Any, **_: Any) -> Any:
        return (hidden_states / 2,)

    return halved


def in_own_process(name: str) -> dict[str, Any]:
    """`measure` in a new process; a line about it goes to stderr."""
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:26} {row['seconds']:6.1f} s, {row['processor_seconds']:6.1f} s of the processor, "
        f"peak {row['peak_gb']:.2f} GB",
        file=sys.stderr,
    )
    return row


def main() -> None:
    rows = {name: in_own_process(name) for name in CASES}
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("wiring", rows))
    if "--json" in sys.argv:
        print(json.dumps(rows))


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure(sys.argv[-1])))
    else:
        main()
