"""All that is measured on a GPU, one after the other, each part with a limit; what is measured is kept whatever happens.

Usage: python benchmarks/gpu.py --out FOLDER [--smoke [SECONDS]] [--device cuda] [PART ...]

Parts: "twins" (recipes on tiny twins), "memory" (against what --dry-run states), "compiled" and "stages" (DiT-XL/2),
"growth" and "students". FOLDER gets PART.jsonl for each, machine.json, and failed.jsonl, which says what was ended
or failed as a whole. --smoke runs all of them at once, with tiny models and few repeats, to look for errors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rows
from machine import machine

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A script of this folder.

    Attributes:
        script, arguments: what runs.
        phase: parts of one phase run at the same time; only one of them at a time measures a time.
        seconds: after which it is ended.
    """

    script: str
    phase: int
    seconds: float
    arguments: tuple[str, ...] = ()


PARTS = {
    "compiled": Part("stages.py", 0, 170, ("finetune_compiled",)),
    "twins": Part("twins.py", 0, 120),
    "memory": Part("memory.py", 0, 100),
    "stages": Part("stages.py", 1, 120, ("distil", "finetune", "distil_compiled")),
    "growth": Part("growth_gpu.py", 2, 190),
    "students": Part("students.py", 2, 190),
}


def run(names: list[str], out: Path, device: str, smoke: float | None) -> None:
    """Run these parts; `smoke` are the seconds of all of them, if they are only tried."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "machine.json").write_text(json.dumps({"machine": machine(), "arguments": sys.argv[1:]}, indent=1) + "\n")
    os.environ[rows.LOCK] = str((out / "lock").absolute())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    os.environ["HF_HUB_OFFLINE"] = "1"
    for phase in sorted({0 if smoke else PARTS[name].phase for name in names}):
        chosen = {name: PARTS[name] for name in names if smoke or PARTS[name].phase == phase}
        start = time.monotonic()
        _together(chosen, out, device, smoke)
        print(f"{', '.join(chosen)}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    (out / "lock").unlink(missing_ok=True)


def _together(parts: dict[str, Part], out: Path, device: str, smoke: float | None) -> None:
    starts = {name: partial(_started, name, part, out, device, smoke) for name, part in parts.items()}
    limit = smoke or max(part.seconds for part in parts.values())
    rows.in_turns(starts, len(starts), limit, out / "failed.jsonl")


def _started(name: str, part: Part, out: Path, device: str, smoke: float | None) -> rows.Process:
    file = (out / f"{name}.jsonl").absolute()
    options = ["--rows", str(file), "--device", device, *(["--smoke"] if smoke else []), *part.arguments]
    return rows.start(part.script, *options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", type=float, nargs="?", const=100.0, metavar="SECONDS")
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    options = parser.parse_args()
    run(options.parts, options.out, options.device, options.smoke)


if __name__ == "__main__":
    main()
