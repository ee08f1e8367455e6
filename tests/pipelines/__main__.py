"""Writes docs/pipelines.md: how pipelines of diffusers feed their transformers. Usage: python -m tests.pipelines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from surgery.errors import SurgeryError
from surgery.pipelines import Condition, Wiring, measure
from surgery.pipelines.collate import collate, outputs_of
from surgery.pipelines.encode import encoder_of
from surgery.pipelines.process import process_of
from surgery.pipelines.record import sample
from tests.pipelines.build import Tiny
from tests.pipelines.embedded import EMBEDDED
from tests.pipelines.tiny import PIPELINES

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
HEAD = """# Pipelines of diffusers

Tiny pipelines with random weights, built by `tests/pipelines` without a network, and how each feeds its
transformer as `surgery.measure` finds it. *Wired*: every argument of every step of a replayed run is given to the bit.
*Guidance*: by rows of one forward or by several calls. *Batched*: the largest difference between samples in one forward
and alone, or why they run alone. *Encoded*: whether the way from the latents to the autoencoder could be inverted.
Written by `make pipelines` with torch {torch} and diffusers {diffusers}.

**{wired} of {total} pipelines are wired, of {classes} transformer classes; {batched} can be batched, {encoded} encode.**

| pipeline | transformer | wired | process | guidance | batched | encoded |
|---|---|---|---|---|---|---|
"""


@dataclass
class Row:
    """What came of one pipeline; `failure` says why it could not be wired."""

    tiny: Tiny
    failure: str = ""
    process: str = ""
    guidance: str = ""
    batched: str = ""
    encoded: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"| {self.tiny.name} | {self.transformer} | no: {self.failure} | | | | |"
        found = (self.process, self.guidance, self.batched, self.encoded)
        return f"| {self.tiny.name} | {self.transformer} | yes | {' | '.join(found)} |"

    @property
    def transformer(self) -> str:
        """The transformer's class."""
        return self.tiny.transformer.partition("-")[0]


def row_of(tiny: Tiny) -> Row:
    """Build a pipeline, measure it and try what it is for."""
    row = Row(tiny)
    try:
        pipeline = tiny.build()
        wiring = measure(pipeline, tiny.call)
    except Exception as error:  # whatever a pipeline fails with is what the table is to say
        row.failure = _line(error) or type(error).__name__
        return row
    row.process = _said(lambda: "{0.kind}, {0.predicts}".format(process_of(wiring.schedule)))
    row.guidance = _guidance(wiring)
    row.batched = _said(lambda: _batched(pipeline, wiring, tiny.call))
    row.encoded = _said(lambda: f"by {encoder_of(pipeline, tiny.call, wiring.shape).autoencoder}")
    return row


def _guidance(wiring: Wiring) -> str:
    if len(wiring.branches) == 1:
        return "none"
    kind = "calls" if wiring.branches[-1].call else "rows"
    return f"{len(wiring.branches)} {kind}{'' if wiring.linear else ', not linear'}"


def _batched(pipeline: Any, wiring: Wiring, call: dict[str, Any]) -> str:
    """The largest difference between three samples in one forward and alone, relative to the largest output."""
    if wiring.batching.odd:
        return f"no: {wiring.batching.odd[0]}"
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, *wiring.shape, generator=generator)
    positions = torch.randint(len(wiring.schedule), (3,), generator=generator)
    made = sample(pipeline, {**call, "num_inference_steps": 2}, wiring)
    condition = Condition(wiring.conditional, made.conditions[wiring.conditional])

    def outputs(rows: slice) -> tuple[int, torch.Tensor]:
        batches = collate(wiring, z[rows], positions[rows], [condition] * len(z[rows]))
        with torch.no_grad():
            outs = [getattr(pipeline, batch.model)(**batch.arguments) for batch in batches]
        return len(batches), outputs_of(wiring, batches, outs)

    forwards, together = outputs(slice(None))
    alone = torch.cat([outputs(slice(row, row + 1))[1] for row in range(3)])
    if forwards > 1:
        return f"no: {forwards} forwards for 3 samples"
    return f"{float((together - alone).abs().max() / alone.abs().max()):.0e}"


def _said(what: Any) -> str:
    try:
        return str(what())
    except SurgeryError as error:
        return f"no: {_line(error)}"
    except Exception as error:  # of the pipeline's own code
        return f"no: {type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).replace("|", "/")[:160]


def main(names: list[str]) -> None:
    """Measure the pipelines of these names, all without, and write the page."""
    rows = []
    for tiny in (*PIPELINES, *EMBEDDED):
        if not names or tiny.pipeline in names:
            rows.append(row_of(tiny))
            print(rows[-1], file=sys.stderr, flush=True)
    if names:
        return
    wired = [row for row in rows if not row.failure]
    head = HEAD.format(
        torch=torch.__version__, diffusers=diffusers.__version__, wired=len(wired), total=len(rows),
        classes=len({row.transformer for row in wired}),
        batched=sum(not row.batched.startswith("no") for row in wired),
        encoded=sum(not row.encoded.startswith("no") for row in wired),
    )  # fmt: skip
    PAGE.write_text(head + "".join(f"{row}\n" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
