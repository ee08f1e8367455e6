"""The study: what of an architecture can be replaced at which cost, by the rows of `rows.py`.

    python recipes/study/study.py [--bench fashion] [--jobs cuda=3 --jobs cpu=12] [--seeds N] [--out DIR] [--save FILE]

Each row is a run of its own in DIR, of a recipe that is trained but not judged; afterwards five draws of 1,000 samples
are judged, as the teacher's draws from the same noise are, which are made once. The command may be interrupted
and repeated: what is there is not done again. FILE gets all results as JSON after each row, by default DIR/results.json;
what it has already, from another machine or an earlier checkout, is not done again either.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from found import least_harmed, searched
from rows import Row, rows
from torch import nn

import surgery
from surgery.data import FashionMNIST
from surgery.data.fashion import DEBIAN
from surgery.device import processor
from surgery.digits.bench import DIGITS, FASHION_MNIST, Bench
from surgery.digits.judge import evaluate_samples
from surgery.files import write_atomically
from surgery.models import load_pretrained
from surgery.run.origin import origin_of
from surgery.training.compiled import compiled

DRAWS, FLOOR, STEPS = 5, 10, 10
"""Draws of samples of a student, of the teacher, and steps of the sampler."""
LONGEST = 7 * 24 * 3600
"""Seconds."""
BENCHES = {"digits": DIGITS, "fashion": FASHION_MNIST}


@dataclass(frozen=True)
class Study:
    """Where and on what it is made; all is judged on one device, wherever a row is trained."""

    bench: str
    data: Path
    out: Path
    device: str
    judged_on: str
    threads: int

    @property
    def subject(self) -> Bench:
        """The bench."""
        return BENCHES[self.bench]

    def teacher(self) -> dict[str, Any]:
        """The figures of the teacher."""
        return {"device": _name_of(self.judged_on), **self.judged(load_pretrained(self.subject.model).model, FLOOR)}

    def judged(self, model: nn.Module, draws: int) -> dict[str, list[float]]:
        """The Frechet distance and the class accuracy of each draw of a model."""
        scheduler, judge = load_pretrained(self.subject.model).scheduler, self.subject.judge
        judge.classifier.to(self.judged_on)
        model.to(self.judged_on)
        frechet, accuracy = [], []
        parts = model.transformer_blocks if self.judged_on == "cpu" else ()  # a GPU draws faster than this compiles
        torch.compiler.reset()  # else a process gives up compiling after some rows, whose blocks are of one class
        with compiled(parts):
            for seed in range(draws):
                images, labels = evaluate_samples(model, scheduler, steps=STEPS, seed=seed)
                frechet.append(judge.frechet(images))
                accuracy.append(judge.accuracy(images, labels))
        return {"frechet": frechet, "accuracy": accuracy}

    def row(self, row: Row, seed: int) -> dict[str, Any]:
        """The figures of a row, trained from a seed."""
        torch.set_num_threads(self.threads)
        start, used = time.perf_counter(), time.process_time()
        data = FashionMNIST(folder=self.data) if self.bench == "fashion" else self.bench
        name = _file_name(row.key, seed)
        recipe = row.recipe(self.subject.model, data, seed, self.out / "grafts")
        if row.like is not None:
            recipe = searched(recipe, row.like, self.out / f"{name}-search", self.device)
        if row.least_harmed is not None:
            recipe = least_harmed(recipe, row.least_harmed, self.device)
        run = surgery.apply(recipe, self.out / name, resume=True, device=self.device, name=row.key)
        teacher, *_, student = run.metrics.stages
        trained = time.perf_counter() - start
        return {
            "group": row.group, "name": row.name, "seed": seed, **self.judged(run.student, DRAWS),
            "params": [teacher.values["params"], student.values["params"]],
            "flops": [teacher.values["flops"], student.values["flops"]],
            "seconds": {
                "trained": trained, "all": time.perf_counter() - start, "processor": time.process_time() - used,
            },
            "device": _name_of(self.device), "origin": origin_of(self.device).model_dump(),
        }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the number of rows that failed."""
    options = _options(arguments)
    places = [device for device, jobs in options.jobs or [("cpu", 1)] for _ in range(jobs)]
    threads = max(1, options.threads // len(places))
    study = Study(options.bench, options.data, options.out, places[0], places[0], threads)
    study.out.mkdir(parents=True, exist_ok=True)
    blocks = len(load_pretrained(study.subject.model).model.transformer_blocks)
    chosen = [row for row in rows(blocks) if not options.only or any(part in row.key for part in options.only)]
    seeds = {row.key: max(row.seeds, options.seeds) for row in chosen}
    asked = [(row, seed) for seed in range(max(seeds.values())) for row in chosen if seed < seeds[row.key]]
    failed, file = 0, options.save or study.out / "results.json"
    _take_over(file, study.out)
    _kept(study.out / "teacher.json", study.teacher)
    for done in _done(study, asked, places, options.minutes):
        failed += not done
        _save(study.out, asked, file)
    return failed


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recipes/study/study.py", description=__doc__.split("\n")[0])
    parser.add_argument("--bench", choices=BENCHES, default="digits")
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of Fashion-MNIST (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=_jobs, action="append", metavar="DEVICE=N", help="rows at a time (default: cpu=1)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of training, at least (default: %(default)s)")
    parser.add_argument("--only", action="append", help="rows whose name contains this, or another one that is given")
    parser.add_argument("--minutes", type=float, default=LONGEST / 60, help="after which rows are given up")
    parser.add_argument("--save", type=Path, help="JSON file for the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of all jobs together")
    return parser.parse_args(arguments)


def _jobs(text: str) -> tuple[str, int]:
    device, _, number = text.partition("=")
    return device, int(number)


def _done(study: Study, asked: list[tuple[Row, int]], places: Sequence[str], minutes: float) -> Iterator[bool]:
    """Do the rows, several at a time, until all are done or the time is over; gives for each whether it went well."""
    end = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for place in places:
        free.put(place)
    taken = context.Array("b", len(asked))
    with context.Pool(len(places), _settle, (free, taken)) as pool:
        results = pool.imap_unordered(partial(_next, study, asked), range(len(asked)))
        for number in range(1, len(asked) + 1):
            try:
                done, said = results.next(max(0.0, min(end - time.monotonic(), LONGEST)))
            except multiprocessing.TimeoutError:
                print(f"the time is over: {len(asked) - number + 1} rows are not done", flush=True)
                return
            print(f"{number}/{len(asked)}  {said}", flush=True)
            yield done


_HERE: dict[str, Any] = {}
"""Of a process that does rows: its "place", a device, and which rows are "taken"."""


def _settle(free: Any, taken: Any) -> None:
    """Begin as a process that does rows."""
    _HERE.update(place=free.get(), taken=taken)


def _next(study: Study, asked: list[tuple[Row, int]], _: int) -> tuple[bool, str]:
    """Do the first row that nobody has taken; on the slower devices, the first of the shortest."""
    place, taken = _HERE["place"], _HERE["taken"]
    with taken.get_lock():
        left = [number for number, is_taken in enumerate(taken) if not is_taken]
        slow = place != study.judged_on
        number = min(left, key=lambda number: asked[number][0].updates if slow else 0)
        taken[number] = True
    return _one(replace(study, device=place), asked[number])


def _one(study: Study, asked: tuple[Row, int]) -> tuple[bool, str]:
    """Do a row with a seed, unless it is there; gives whether it went well, and a line on it."""
    row, seed = asked
    try:
        result = _kept(study.out / f"{_file_name(row.key, seed)}.json", lambda: study.row(row, seed))
    except Exception as error:  # one row keeps no other from being done
        return False, f"{row.key}, seed {seed}: failed: {type(error).__name__}: {error}"
    return True, f"{row.key}, seed {seed}: {fmean(result['frechet']):.3f}, {result['seconds']['all']:.0f} s"


def _kept(file: Path, make: Any) -> dict[str, Any]:
    """What is in `file`, or else is made and kept there."""
    if not file.exists():
        write_atomically(file, json.dumps(make(), indent=1).encode())
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _take_over(file: Path, out: Path) -> None:
    """Put what a file of results has into the folder, but for what is there."""
    if not file.exists():
        return
    saved = json.loads(file.read_text())
    _kept(out / "teacher.json", lambda: saved["teacher"])
    for row in saved["rows"]:
        key = f"{row['group']}: {row['name']}"
        _kept(out / f"{_file_name(key, row['seed'])}.json", partial(dict, row))


def _save(out: Path, asked: list[tuple[Row, int]], file: Path) -> None:
    """Put all that there is into one file."""
    files = [out / f"{_file_name(row.key, seed)}.json" for row, seed in asked]
    found = [json.loads(each.read_text()) for each in files if each.exists()]
    missing = [f"{row.key}, seed {seed}" for (row, seed), each in zip(asked, files, strict=True) if not each.exists()]
    content = {"teacher": json.loads((out / "teacher.json").read_text()), "rows": found, "missing": missing}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, indent=1).encode() + b"\n")


def _file_name(key: str, seed: int) -> str:
    return "".join(c if c.isalnum() else "-" for c in key) + f"-{seed}"


def _name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else its processes would outlive it
    sys.exit(main())
