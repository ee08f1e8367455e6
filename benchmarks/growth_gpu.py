"""Time and peak memory of each operator on a GPU as the number of tokens grows, eager, compiled, and with each kernel.

Usage: python benchmarks/growth_gpu.py --rows FILE [--device cuda] [--smoke] [OPERATOR ...]

The operators of `growth.py`, whole mixers with their projections, batch 1, in bfloat16, without gradients, at up to
65,536 tokens. Every operator has a process of its own, as compiling is work of the processor; only one at a time
measures a time. Each row of FILE is the best of several runs, by CUDA events; the seconds of the first call,
compilation included; and how far a call raises what PyTorch has allocated. What takes too long, such as compiling a
scan of a thousand chunks, is a row that says so, and is not tried at larger sizes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import growth
import rows
import torch

from surgery.operators import MixerConfig
from surgery.operators.backends import BACKENDS

SIZES = (1024, 4096, 16384, 65536)
LEAST, MOST, SECONDS = 3, 20, 0.4
LIMIT, LIMIT_OF_ALL = 45.0, 170.0
"""Seconds of a row, and of all of them."""
PEAK = "peak_mb"


def forms(name: str, config: MixerConfig) -> Iterator[tuple[str, MixerConfig, bool]]:
    """Plain PyTorch, eager and compiled, and every kernel that is installed for it, as "window[flash-attn]"."""
    field = type(config).model_fields.get("backend")
    plain = config if field is None else config.model_copy(update={"backend": "torch"})
    yield name, plain, False
    yield name, plain, True
    known = () if field is None else get_args(field.annotation)
    for backend in BACKENDS:
        if backend.name in known and backend.version is not None:
            yield f"{name}[{backend.name}]", config.model_copy(update={"backend": backend.name}), False


def figures(config: MixerConfig, compiled: bool, tokens: int, width: dict[str, Any], device: str) -> dict[str, float]:
    """The row of one operator at one size."""
    mixer, x_BND = growth.build(config, tokens, width, device)
    run: Any = torch.compile(mixer, dynamic=False) if compiled else mixer
    start = time.perf_counter()
    growth.seconds_of(run, x_BND, device=device)
    found = {"first_call": time.perf_counter() - start}
    with rows.alone():
        runs: list[float] = []
        while len(runs) < LEAST or (len(runs) < MOST and sum(runs) < SECONDS):
            runs.append(growth.seconds_of(run, x_BND, device=device))
    found["seconds"] = min(runs)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        growth.seconds_of(run, x_BND, device=device)
        found[PEAK] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return found


def measure(name: str, file: Path, sizes: tuple[int, ...], width: dict[str, Any], device: str) -> None:
    """All rows of one operator, in this process."""
    left_out: set[tuple[str, bool]] = set()
    for tokens in sizes:
        for form, config, compiled in forms(name, growth.operators()[name]):
            what = {"benchmark": "growth", "operator": form, "compiled": compiled, "tokens": tokens}
            if (form, compiled) in left_out:
                rows.add(file, **what, error="not tried, as fewer tokens have failed")
                continue
            with rows.measured(file, LIMIT, **what) as row:
                row |= figures(config, compiled, tokens, width, device)
            if "error" in row:
                left_out.add((form, compiled))
            torch._dynamo.reset()
            if device == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) * 3 // 4))
    parser.add_argument("--one", action="store_true", help="in this process")
    parser.add_argument("operators", nargs="*", default=list(growth.operators()))
    options = parser.parse_args()
    if options.one:
        width = growth.WIDTH | ({"dim": 32, "heads": 2, "head_dim": 16} if options.device == "cpu" else {})
        measure(options.operators[0], options.rows, SIZES[:1] if options.smoke else SIZES, width, options.device)
        return
    common = ["--one", "--rows", str(options.rows), "--device", options.device, *(["--smoke"] if options.smoke else [])]
    # Compiling one operator takes as many threads as there are otherwise, and starts processes for them.
    alone = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    starts = {name: partial(rows.start, "growth_gpu.py", *common, name, **alone) for name in options.operators}
    rows.in_turns(starts, options.workers, LIMIT_OF_ALL, options.rows)


if __name__ == "__main__":
    main()
