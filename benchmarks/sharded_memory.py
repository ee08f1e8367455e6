"""Peak memory of a process that shares a large model with others, against its share.

    python benchmarks/sharded_memory.py [--layers 26] [--heads 24] [--processes 4] [--save]

A random DiT is saved once as safetensors (float32). Each process then loads it, rewrites it, divides teacher and student
by FSDP2, trains one step of each stage, and saves the student. Measured is the largest memory of its own (RssAnon and
RssShmem of /proc/self/status, 200 times a second) over what it had after its imports and the run of a tiny model; pages
of the mapped file belong to the system, which lends them to all processes alike. The C library is told to give freed
memory back (MALLOC_MMAP_THRESHOLD_), as it would keep some for later.

The share of a process is an equal part of what the larger stage holds, by its rehearsal: weights of teacher and student,
those that both have once, gradients, moments, and average; and what one block takes whole, with its gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import machine, save

TRAINED = "transformer_blocks.*.attn1.*"
"""Of the inherited weights; all others stay the teacher's, so that both hold them once."""


def make(folder: Path, layers: int, heads: int) -> int:
    """Save a model of random weights; how many it has."""
    from diffusers import DDPMScheduler, DiTTransformer2DModel

    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=64, in_channels=1, out_channels=1, num_layers=layers,
            sample_size=8, patch_size=1, num_embeds_ada_norm=10,
        )  # fmt: skip
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.pos_embed.pos_embed.zero_()
    model.save_pretrained(folder)
    DDPMScheduler(num_train_timesteps=100).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def own_memory() -> int:
    """Bytes of this process that are backed by no file."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """The largest memory of each phase that the block names, by `phase`; see the module."""
    found: dict[str, int] = {"load": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            phase = list(found)[-1]
            found[phase] = max(found[phase], own_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def train(model: Path, out: Path, phases: dict[str, int]) -> int:
    """Load, rewrite, divide, train and save; the share of a process."""
    import surgery
    from surgery.operators import HyenaX
    from surgery.parallel.group import size
    from surgery.recipe import Distil, Finetune, Recipe
    from surgery.rewriting import every
    from surgery.rewriting.commit import commit
    from surgery.rewriting.edit import new_paths
    from surgery.rules import replace_attention
    from surgery.run.prepare import prepare
    from surgery.training.distil import distil, sites_of
    from surgery.training.finetune import finetune
    from surgery.training.imitate import imitable
    from surgery.training.rehearse import Rehearsal
    from surgery.training.sharding import divide, never_trained

    common: dict[str, Any] = {"steps": 1, "batch_size": 4, "warmup": 0}
    config = Finetune(**common, inherited_lr=0, rates={TRAINED: 1}, target="teacher")
    rules = [replace_attention(HyenaX(kernel=4), layers=every(2))]
    recipe = Recipe(model=str(model), rules=rules, distil=Distil(**common), finetune=config, evaluate=None)
    prepared = prepare(recipe, divided=True)
    edits, teacher, graph = prepared.plan.edits, prepared.teacher.model, prepared.graph
    student = commit(graph, edits, 0, prepared.recordings, shared=True)
    phases["rehearse"] = 0
    inputs = prepared.data.example(0, "cpu")
    held = Rehearsal(teacher, student, edits, inputs).finetune(config, imitable(graph, student))
    block = max(sum(p.nbytes for p in teacher.get_submodule(path).parameters()) for path in graph.layers)
    share = (held.weights + held.gradients + held.moments + held.average) // size() + 2 * block
    phases["divide"] = 0
    saved = divide(graph, edits, student, inputs, "cpu", never_trained(student, teacher, edits, config))
    sites = sites_of(edits, teacher, student)
    phases["distil"] = 0
    distil(teacher, student, sites, prepared.data, recipe.distil, seed=0)
    phases["finetune"] = 0
    finetune(teacher, student, new_paths(edits), prepared.data, config, seed=0)
    phases["save"] = 0
    saved.load_state_dict(student.state_dict(), assign=True)
    surgery.save(saved, out)
    return share


def work(folder: Path) -> None:
    """What each process does; its figures go to a file."""
    from surgery.parallel.group import joined, rank

    with joined():
        with watched() as phases:
            train(folder / "tiny", folder / "out-tiny", phases)
        before = own_memory()
        with watched() as phases:
            share = train(folder / "model", folder / "out", phases)
        rises = {phase: peak - before for phase, peak in phases.items()}
        (folder / f"{rank()}.json").write_text(json.dumps({"share": share, "phases": rises}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.time()
        make(folder / "tiny", 2, 2)
        parameters = make(folder / "model", given.layers, given.heads)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(given.processes), __file__]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        subprocess.run([*command, "--worker", name], check=True, env=environment)
        found = [json.loads((folder / f"{number}.json").read_text()) for number in range(given.processes)]
    peak, share = max(max(each["phases"].values()) for each in found), found[0]["share"]
    result = {
        "parameters": parameters, "processes": given.processes, "share": share, "peak": peak,
        "ratio": round(peak / share, 3), "phases": [each["phases"] for each in found],
        "seconds": round(time.time() - start), "machine": machine(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if given.save:
        save("sharded_memory", result)


if __name__ == "__main__":
    main()
