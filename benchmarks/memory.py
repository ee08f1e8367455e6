"""Peak memory of both stages: what a rehearsal states, and what a process of its own takes.

Usage: python benchmarks/memory.py [--json] [--save] [--device cuda --rows FILE [--smoke]]

Each of three models of 50 to 70 M parameters is distilled, finetuned as a whole and finetuned by adapters for two steps,
checkpoint included, in a process of its own. Measured is how far its resident memory rises (VmHWM over VmRSS before there
was a model, after a tiny one was trained, so that libraries do not count). The last line with --json is
{"MODEL": {"STAGE": {"stated": bytes, "measured": bytes}}}.

On a GPU it is what PyTorch has allocated at most, of 16 samples, all in one process; each is a row of FILE.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import rows
from machine import machine, save

STAGES = ("distil", "finetune", "lora")
HELD = ("distil int8", "distil nf4", "distil offload", "finetune offload")
"""On a GPU also a stage with a teacher that takes less memory."""
BATCH, BATCH_ON_GPU = 2, 16
LIMIT = 60
WIDTH = {"num_attention_heads": 12, "attention_head_dim": 64, "sample_size": 32, "patch_size": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "DiT": ("DiTTransformer2DModel", WIDTH | {"in_channels": 4, "out_channels": 8, "num_layers": 5}),
    "PixArt": (
        "PixArtTransformer2DModel",
        WIDTH | {"in_channels": 4, "out_channels": 8, "num_layers": 6}
        | {"cross_attention_dim": 768, "caption_channels": 512},
    ),
    "SD3": (
        "SD3Transformer2DModel",
        WIDTH | {"in_channels": 16, "out_channels": 16, "num_layers": 3}
        | {"joint_attention_dim": 512, "pooled_projection_dim": 256, "caption_projection_dim": 768},
    ),
}  # fmt: skip
TINY = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "norm_num_groups": 1}


def config_of(stage: str, batch: int) -> Any:
    from surgery.recipe import Distil, Finetune, LoRA

    stage, _, held = stage.partition(" ")
    common: dict[str, Any] = {"steps": 2, "batch_size": batch, "warmup": 0, "checkpoint_every": 2}
    if held:
        common |= {"teacher_weights": held} | ({"target": "teacher"} if stage == "finetune" else {})
    return Distil(**common) if stage == "distil" else Finetune(**common, lora=LoRA() if stage == "lora" else None)


def measured(class_name: str, init: dict[str, Any], stage: str) -> dict[str, int]:
    """Both figures, in this process."""
    train("DiTTransformer2DModel", TINY, stage)
    before = resident("VmRSS")
    return {"stated": train(class_name, init, stage), "measured": resident("VmHWM") - before}


def on_gpu(class_name: str, init: dict[str, Any], stage: str, batch: int) -> dict[str, int]:
    """Both figures of a GPU that a tiny model was trained on before, so that what libraries keep does not count."""
    import torch

    gc.collect()
    before = torch.cuda.memory_allocated()
    stated = train(class_name, init, stage, "cuda", batch)
    return {"stated": stated, "measured": torch.cuda.max_memory_allocated() - before}


def train(class_name: str, init: dict[str, Any], stage: str, device: str = "cpu", batch: int = BATCH) -> int:
    """Train a model and its student; what the rehearsal states before."""
    import diffusers
    import torch

    import surgery
    from surgery.models.inputs import example_inputs
    from surgery.operators import GatedMLP
    from surgery.rewriting import every
    from surgery.rewriting.commit import commit
    from surgery.rewriting.edit import new_paths
    from surgery.rules import replace_mlp
    from surgery.training.checkpoint import CheckpointStore
    from surgery.training.distil import distil, sites_of
    from surgery.training.finetune import finetune
    from surgery.training.rehearse import Rehearsal

    with torch.device(device):
        teacher = getattr(diffusers, class_name)(**init)
    inputs = example_inputs(teacher, batch)
    graph = surgery.trace(teacher, inputs)
    edits = surgery.plan(graph, [replace_mlp(GatedMLP(ratio=2), layers=every(2), inherit="random")]).edits
    student = commit(graph, edits, shared=True)
    config, data = config_of(stage, batch), Given(inputs)
    rehearsal = Rehearsal(teacher, student, edits, inputs)
    is_distil = stage.startswith("distil")
    memory = rehearsal.distil(config) if is_distil else rehearsal.finetune(config, ())
    assert memory is not None
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        else:
            torch.cuda.reset_peak_memory_stats()
        if is_distil:
            distil(teacher, student, sites_of(edits, teacher, student), data, config, seed=0, checkpoints=store)
        else:
            finetune(teacher, student, new_paths(edits), data, config, seed=0, checkpoints=store)
    return memory.total


class Given:
    """One batch as training data, again and again."""

    identity: ClassVar[dict[str, str]] = {}

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._inputs = inputs

    def source(self, *_: Any, **__: Any) -> Any:
        from surgery.training.rehearse import Rehearsed

        return Rehearsed(self._inputs)


def resident(kind: str) -> int:
    """A figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def measured_on_gpu(file: Path, smoke: bool) -> None:
    """A row of every model and stage."""
    stages = (*STAGES, *HELD)
    for stage in stages:
        with rows.measured(file, LIMIT, benchmark="memory", model="", stage=stage):  # 64 MB stay with cuBLAS
            on_gpu("DiTTransformer2DModel", TINY, stage, BATCH)
    for name, (class_name, init) in MODELS.items():
        for stage in stages:
            with rows.measured(file, LIMIT, benchmark="memory", model=name, stage=stage) as row:
                row |= on_gpu(class_name, init, stage, BATCH if smoke else BATCH_ON_GPU)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--json", "--save", "--smoke"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.one:
        class_name, init, stage = json.loads(options.one)
        return print(json.dumps(measured(class_name, init, stage)))
    if options.device == "cuda":
        return measured_on_gpu(options.rows, options.smoke)
    figures: dict[str, dict[str, Any]] = {}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    for name, (class_name, init) in MODELS.items():
        for stage in STAGES:
            command = [sys.executable, __file__, "--one", json.dumps([class_name, init, stage])]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            row = json.loads(done.stdout.splitlines()[-1])
            figures.setdefault(name, {})[stage] = row
            print(f"{name:8} {stage:9} stated {row['stated'] / 1e6:6.0f} MB, measured {row['measured'] / 1e6:6.0f} MB, "
                  f"{row['measured'] / row['stated']:.2f}", file=sys.stderr)  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if options.save:
        print(save("memory", figures))
    if options.json:
        print(json.dumps(figures))
    return None


if __name__ == "__main__":
    main()
