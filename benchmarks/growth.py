"""Time and peak memory of each operator as the number of tokens grows, against full attention in the same run.

Usage: python benchmarks/growth.py [--json] [--save] [--device cuda] [--pixart]

Whole mixers with their projections: D = 1,152, 16 heads, batch 1, without gradients. A time is the best of several
interleaved runs. On a CPU: float32, 2 threads, and the peak is that of a process of its own (ru_maxrss less what it was
before the call). On a GPU: bfloat16, CUDA events, max_memory_allocated, and every installed kernel besides PyTorch's.
--pixart measures PixArt-Sigma at 2048 x 2048 instead. The last line with --json is {"OPERATOR": {"16384": {"seconds": s,
"speedup": r, "peak_mb": m}, ...}, ...}; --save keeps that in results/, with a plot, and what a CPU gave in
docs/operators.md.
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
from typing import TYPE_CHECKING, Any, get_args

import growth_page
import growth_plot
import pixart
from machine import RESULTS, machine, save

if TYPE_CHECKING:
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


def seconds_of(mixer: torch.nn.Module, *inputs: Any, device: str, **named: Any) -> float:
    """The time of one call without gradients."""
    import torch

    with torch.no_grad():
        if device != "cuda":
            start = time.perf_counter()
            mixer(*inputs, **named)
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        mixer(*inputs, **named)
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def times(configs: dict[str, MixerConfig], tokens: int, width: dict[str, Any], device: str) -> dict[str, float]:
    """The best time of each operator; one run of each comes after the other."""
    built = {name: build(config, tokens, width, device) for name, config in configs.items()}
    runs: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(MOST):
        for name, (mixer, x_BND) in built.items():
            if len(runs[name]) < LEAST or sum(runs[name]) < SECONDS:
                runs[name].append(seconds_of(mixer, x_BND, device=device))
    return {name: min(each) for name, each in runs.items()}


def peak_mb(config: MixerConfig, tokens: int, width: dict[str, Any], device: str) -> float:
    """How far one call raises the peak memory of this process, or of the GPU, in MB."""
    mixer, x_BND = build(config, tokens, width, device)
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds_of(mixer, x_BND, device=device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds_of(mixer, x_BND, device=device)
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
        return times(operators(), int(tokens), WIDTH, "cpu")
    return peak_mb(operators()[name], int(tokens), WIDTH, "cpu")


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


def with_kernels(configs: dict[str, MixerConfig], width: dict[str, Any], device: str) -> dict[str, MixerConfig]:
    """Each operator in plain PyTorch, and with every kernel that is installed and serves it, as "window[flash-attn]"."""
    from surgery.errors import RewriteError
    from surgery.operators.backends import BACKENDS

    found = {}
    for name, config in configs.items():
        has_field = "backend" in type(config).model_fields
        found[name] = config.model_copy(update={"backend": "torch"}) if has_field else config
        known = get_args(type(config).model_fields["backend"].annotation) if has_field else ()
        for backend in (each.name for each in BACKENDS if each.name in known):
            kernel = config.model_copy(update={"backend": backend})
            try:
                build(kernel, WARM_UP, width, device)
                found[f"{name}[{backend}]"] = kernel
            except RewriteError as error:
                print(error, file=sys.stderr)
    return found


def in_this_process(
    configs: dict[str, MixerConfig], sizes: tuple[int, ...], width: dict[str, Any], device: str
) -> Rows:
    """All operators at all sizes, on a GPU, which counts the memory of its tensors alone."""
    rows: Rows = {name: {} for name in configs}
    for tokens in sizes:
        for name, seconds in times(configs, tokens, width, device).items():
            peak = peak_mb(configs[name], tokens, width, device)
            rows[name][str(tokens)] = {"seconds": seconds, "peak_mb": peak}
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


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for flag, words in (
        ("--json", "end with one line of JSON"),
        ("--save", "keep the figures and a plot in results/"),
        ("--pixart", "measure PixArt-Sigma at 2048 x 2048 instead"),
    ):
        parser.add_argument(flag, action="store_true", help=words)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser.parse_args()


def measured(device: str) -> Rows:
    """The figures of all operators on this machine."""
    rows = (
        on_cpu() if device == "cpu" else in_this_process(with_kernels(operators(), WIDTH, device), SIZES, WIDTH, device)
    )
    add_speedups(rows)
    return rows


def main() -> None:
    options = parsed()
    load = os.getloadavg()[0]
    rows: Any = pixart.compare({}, options.device) if options.pixart else measured(options.device)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), f"load before the run {load:.1f}", sep=", ")
    print(pixart.table(rows) if options.pixart else table(rows))
    if options.save:
        name = ("pixart" if options.pixart else "operators") + ("_cuda" if options.device == "cuda" else "")
        print(save(name, rows))
        if not options.pixart:
            print(*growth_plot.draw(rows, RESULTS / name))
        if name == "operators":
            print(growth_page.write(rows))
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
