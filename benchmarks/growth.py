"""Time and peak memory of each operator as the number of tokens grows, against full attention in the same run.

Usage: python benchmarks/growth.py [--json] [--save]

Whole mixers with their projections: D = 1,152, 16 heads, batch 1, without gradients, on a CPU; `growth_gpu.py` is for a
GPU. A time is the best of several interleaved runs, in float32 and with 2 threads; the peak is that of a process of its
own (ru_maxrss less what it was before the call). The last line with --json is {"OPERATOR": {"16384": {"seconds": s,
"speedup": r, "peak_mb": m}, ...}, ...}; --save keeps that in results/, with a plot, and in docs/operators.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import growth_page
import growth_plot
from machine import RESULTS, machine, save

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from surgery.operators import MixerConfig

SIZES = (1024, 4096, 16384)
WIDTH = {"dim": 1152, "heads": 16, "head_dim": 72, "qkv_bias": True, "out_bias": True}
THREADS = 2
WARM_UP = 64
LEAST, MOST, SECONDS = 3, 12, 3.0
"""Runs of an operator at one size: at least, at most, and the seconds after which there are no more than the least."""

Rows = dict[str, dict[str, dict[str, float]]]


def operators() -> dict[str, MixerConfig]:
    """What is measured, as published where there is a publication."""
    from surgery import operators as ops

    return {
        "full": ops.FullAttention(),
        "grouped_query": ops.GroupedQueryAttention(groups=4),
        "neighbourhood": ops.NeighbourhoodAttention(window=7),
        "neighbourhood_strided": ops.NeighbourhoodAttention(window=7, dilation=4),
        "blend": ops.Blend(
            parts=(ops.NeighbourhoodAttention(window=5), ops.LinearAttention(features="learned", centre=True))
        ),
        "sparse_linear": ops.SparseLinear(),
        "ttt": ops.TTT(),
        "ttt_gated": ops.TTT(inner="gated"),
        "gated_delta": ops.GatedDelta(),
        "mamba2_both_ways": ops.Mamba2(),
        "mamba2": ops.Mamba2(causal=True),
        "linear_learned": ops.LinearAttention(features="learned"),
        "linear": ops.LinearAttention(),
        "window": ops.SlidingWindow(window=4),
        "hyena_se": ops.HyenaSE(kernel=4, causal=True),
        "hyena_x": ops.HyenaX(kernel=4, causal=True),
        "hyena_y": ops.HyenaY(kernel=4, causal=True),
    }


def build(config: MixerConfig, tokens: int, width: dict[str, Any], device: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A mixer with random weights and its input, warmed up on a few tokens."""
    import torch

    from surgery.operators import MixerDims

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    mixer = config.build(MixerDims(**width)).to(device, dtype)
    x_BND = torch.randn(1, tokens, width["dim"], device=device, dtype=dtype)
    with torch.no_grad():
        mixer(x_BND[:, :WARM_UP])
    return mixer, x_BND


def seconds_of(run: Callable[..., Any], *inputs: Any, device: str = "cpu", **named: Any) -> float:
    """The time of one call without gradients."""
    import torch

    with torch.no_grad():
        if device != "cuda":
            start = time.perf_counter()
            run(*inputs, **named)
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(*inputs, **named)
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def times(configs: dict[str, MixerConfig], tokens: int, width: dict[str, Any]) -> dict[str, float]:
    """The best time of each operator; one run of each comes after the other."""
    built = {name: build(config, tokens, width, "cpu") for name, config in configs.items()}
    runs: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(MOST):
        for name, (mixer, x_BND) in built.items():
            if len(runs[name]) < LEAST or sum(runs[name]) < SECONDS:
                runs[name].append(seconds_of(mixer, x_BND))
    return {name: min(each) for name, each in runs.items()}


def peak_mb(config: MixerConfig, tokens: int, width: dict[str, Any]) -> float:
    """How far one call raises the peak memory of this process, in MB."""
    mixer, x_BND = build(config, tokens, width, "cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds_of(mixer, x_BND)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def in_own_process(*arguments: str) -> Any:
    """What this file prints with --measure, in a new process; this one stays small, as a child starts from its peak."""
    command = [sys.executable, __file__, "--measure", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str, tokens: str, name: str = "") -> Any:
    """One measurement on the CPU, in this process."""
    import torch

    torch.set_num_threads(THREADS)
    if what == "times":
        return times(operators(), int(tokens), WIDTH)
    return peak_mb(operators()[name], int(tokens), WIDTH)


def on_cpu() -> Rows:
    """All operators at all sizes."""
    rows: Rows = {}
    for tokens in map(str, SIZES):
        for name, seconds in in_own_process("times", tokens).items():
            rows.setdefault(name, {})[tokens] = {"seconds": seconds}
        for name in rows:
            rows[name][tokens]["peak_mb"] = in_own_process("peak", tokens, name)
        print(f"{tokens} tokens measured", file=sys.stderr)
    return rows


def add_speedups(rows: Rows) -> None:
    """How many times faster than full attention, at each size."""
    for row in rows.values():
        for tokens, figures in row.items():
            figures["speedup"] = rows["full"][tokens]["seconds"] / figures["seconds"]


def growth(row: dict[str, dict[str, float]], what: str) -> float:
    """The exponent p of N^p between the two largest sizes."""
    (less, before), (more, after) = sorted(((int(n), figures[what]) for n, figures in row.items()))[-2:]
    return math.log(max(after, 1e-9) / max(before, 1e-9)) / math.log(more / less)


def table(rows: Rows) -> str:
    """Time, speed-up and peak at each size, and by which power of N time and peak grow."""
    sizes = list(rows["full"])
    wide = max(map(len, rows)) + 1
    head = f"{'':{wide}}" + "".join(f"{f'{int(n):,} tokens':>31}" for n in sizes) + f"{'time':>9}{'peak':>7}"
    lines = [head]
    for name, row in rows.items():
        cells = [f"{1e3 * f['seconds']:11,.1f} ms{f['speedup']:7.2f} x{f['peak_mb']:6,.0f} MB" for f in row.values()]
        powers = f"   N^{growth(row, 'seconds'):.2f} N^{growth(row, 'peak_mb'):.2f}"
        lines.append(f"{name:{wide}}" + "".join(cells) + powers)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--save", action="store_true", help="keep the figures and a plot in results/")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = on_cpu()
    add_speedups(rows)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), f"load before the run {load:.1f}", sep=", ")
    print(table(rows))
    if options.save:
        print(save("operators", rows))
        print(*growth_plot.draw(rows, RESULTS / "operators"))
        print(growth_page.write(rows))
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
