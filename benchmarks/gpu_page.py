"""The page docs/gpu.md and results/gpu.json, from what `gpu.py` has left in a folder.

Usage: python benchmarks/gpu_page.py [FOLDER]

Without a folder the page is made anew from results/gpu.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
RESULT = RESULTS / "gpu.json"
PARTS = ("compiled", "stages", "memory", "twins", "growth", "students")
CASES = {
    "distil": "stage 1, eager",
    "distil_compiled": "stage 1, compiled",
    "finetune": "stage 2, eager",
    "finetune_compiled": "stage 2, compiled",
}
MODELS = {
    "pixart": "PixArt-Sigma, 2048 x 2048: 16,384 tokens, 2 samples",
    "wan": "Wan 2.1 1.3B, 480 x 832, 81 frames: 32,760 tokens, 1 sample",
}
STUDENTS = {"original": "teacher", "recipe": "half of the layers", "all layers": "all layers"}

Row = dict[str, Any]
HEAD = """# On a GPU

Written by `python benchmarks/gpu.py --out FOLDER` on {gpu} (driver {driver}, CUDA {cuda}), torch {torch}, diffusers
{diffusers}, Python {python}; then `python benchmarks/gpu_page.py FOLDER`. One run, in bfloat16, random weights. Other
processes worked on the same machine's processor cores."""
TRAINING = """## Training DiT-XL/2

64 samples of 32 x 32 latents a step, teacher and student; Hyena-X in every second layer, by the tool's own training code.
Stated is what `--dry-run` says of memory, and `surgery plan --gpus 1` of time, which it takes from operations, as if an
H100 did {used:.0%} of what its data sheet says, a share that was chosen after this measurement. A first step compiles."""
MEMORY = """## Memory of training against a dry run

Transformers cut down to a few layers, one batch; what PyTorch's allocator held at most."""
TWINS = """## Recipes on tiny twins

Recipes, end to end on the twin of their model, whose weights are random: caching, 20 steps of each stage, evaluation, a
saved student. All at the same time, so seconds are those of a busy machine."""
GROWTH = """## Operators against full attention

Whole mixers with projections, D = 1,152, 16 heads, one sample, forward only: milliseconds, best of several. Full
attention is `scaled_dot_product_attention`. "-" was not done after 45 seconds, compilation included, or not
tried as fewer tokens were not done. The scans (Mamba-2, TTT, the delta rule) went from chunk to chunk when this was
measured, and a compiler writes all of these steps down; by now, states are found by halving, but for
`TTT(inner="gated")` ([known gaps](gaps.md)). `sparse_linear` has no scan: compiled it was not done at 65,536 tokens,
and why is not known; at 16,384 its first call took 19 seconds."""
STUDENT = """## Students against their teachers

A forward at full size, in milliseconds; compiled is each block by itself. PixArt-Sigma gets Hyena-X, for which the paper
has 1.43 with half of the layers on an H100; Wan gets neighbourhoods in space and time. Wan's compiled students came to
the limit of PyTorch's recompilations: each edited block has code of its own, and what is beyond the limit runs eager."""


def collected(folder: Path) -> Row:
    """All rows of a folder by part, with the machine."""
    lines = {part: (folder / f"{part}.jsonl").read_text().splitlines() for part in PARTS}
    rows = {part: [json.loads(line) for line in each] for part, each in lines.items()}
    return {"machine": json.loads((folder / "machine.json").read_text())["machine"], "figures": rows}


def page(found: Row) -> str:
    """The page of what `collected` gave."""
    from surgery.run.scale import USED

    rows = found["figures"]
    parts = [
        HEAD.format(**found["machine"]), TRAINING.format(used=USED), training([*rows["stages"], *rows["compiled"]]),
        MEMORY, memory(rows["memory"]), TWINS, twins(rows["twins"]), GROWTH, growth(rows["growth"]), STUDENT,
        *students(rows["students"]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def training(rows: Sequence[Row]) -> str:
    """Steps a second and memory of each stage."""
    from surgery.run.scale import USED

    by_case = {row["case"]: row for row in rows}
    plan = by_case["plan"]
    lines = [["", "steps a second", "stated", "memory, GB", "stated", "first step, s"]]
    for case, title in CASES.items():
        row, planned = by_case[case], plan[case.partition("_")[0]]
        speed = planned["steps_a_second"] * USED / plan["used"]
        figures = (row["steps_a_second"], speed, row["measured"] / 1e9, row["stated"] / 1e9, row["first_step"])
        lines.append([title, *(f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in figures)])
    return table(lines)


def memory(rows: Sequence[Row]) -> str:
    """What was stated and what was held."""
    lines = [["model", "stage", "stated, MB", "measured, MB", "measured / stated"]]
    for row in rows:
        if "measured" in row:
            stated, got = row["stated"] / 1e6, row["measured"] / 1e6
            lines.append([row["model"], row["stage"], f"{stated:,.0f}", f"{got:,.0f}", f"{got / stated:.2f}"])
    return table(lines)


def twins(rows: Sequence[Row]) -> str:
    """How each run ended."""
    lines = [["recipe", "seconds", "losses of stage 1, first and last", "of stage 2"]]
    for row in rows:
        losses = [
            " -> ".join(f"{value:.3g}" for value in row["losses"].get(each, ())) for each in ("distil", "finetune")
        ]
        lines.append([f"`{row['recipe']}`", f"{row['seconds']:.0f}", *losses])
    return table(lines)


def growth(rows: Sequence[Row]) -> str:
    """Milliseconds by operator and tokens."""
    sizes = sorted({row["tokens"] for row in rows})
    by_kind: dict[tuple[str, bool], dict[int, Row]] = {}
    for row in rows:
        by_kind.setdefault((row["operator"], row["compiled"]), {})[row["tokens"]] = row
    lines = [["operator", *(f"{size:,}" for size in sizes), f"x full at {sizes[-1]:,}"]]
    for (name, compiled), of in sorted(by_kind.items()):
        times = [of.get(size, {}).get("seconds") for size in sizes]
        full = by_kind["full", compiled][sizes[-1]]["seconds"]
        faster = f"{full / times[-1]:.1f}" if times[-1] else "-"
        kind = "compiled" if compiled else "eager"
        lines.append([f"{name}, {kind}", *(f"{1e3 * t:.2f}" if t else "-" for t in times), faster])
    return table(lines)


def students(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each model."""
    for model, title in MODELS.items():
        lines = [[title, "eager", "x", "compiled", "x"]]
        for student, name in STUDENTS.items():
            times = {
                row["compiled"]: row["seconds"] for row in rows if (row["model"], row["student"]) == (model, student)
            }
            if student == "original":
                teacher = times
            cells = [(f"{1e3 * times[way]:.0f}", f"{teacher[way] / times[way]:.2f}") for way in (False, True)]
            lines.append([name, *(cell for pair in cells for cell in pair)])
        yield table(lines)


def table(lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the first line is the head."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))


def main() -> None:
    if len(sys.argv) > 1:
        RESULT.write_text(json.dumps(collected(Path(sys.argv[1])), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
