"""One row of docs/pipelines.md: what can be done with a tiny pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.errors import SurgeryError
from surgery.pipelines import Condition, Wiring, measure
from surgery.pipelines.collate import Batch, collate
from surgery.pipelines.encode import encoder_of
from surgery.pipelines.process import process_of
from surgery.pipelines.record import sample
from tests.pipelines.build import Tiny
from tests.pipelines.training import recorded_data, trained, wired_data


@dataclass
class Row:
    """What came of one pipeline; a reason begins with "no: "."""

    pipeline: str
    transformer: str
    wired: str = "yes"
    process: str = ""
    guidance: str = ""
    batched: str = ""
    encoded: str = ""
    distilled: str = ""
    finetuned: str = ""
    student: str = ""

    def __str__(self) -> str:
        return f"| {' | '.join(asdict(self).values())} |"

    def has(self, column: str) -> bool:
        """Whether this went well."""
        value = getattr(self, column)
        return bool(value) and not value.startswith("no")


def row_of(tiny: Tiny) -> Row:
    """Build a pipeline, measure it and try what it is for."""
    row = Row(tiny.name, tiny.transformer.partition("-")[0])
    pipeline = tiny.build()
    try:
        wiring = measure(pipeline, tiny.call)
        row.process = _said(lambda: "{0.kind}, {0.predicts}".format(process_of(wiring.schedule)))
        row.guidance = _guidance(wiring)
        row.batched = _said(lambda: _batched(pipeline, wiring, tiny.call))
        row.encoded = _said(lambda: f"by {encoder_of(pipeline, tiny.call, wiring.shape).autoencoder}")
    except SurgeryError as error:
        row.wired = f"no: {_line(error)}"
    try:
        wired = row.has("process")
        data = wired_data(pipeline, wiring, tiny.call) if wired else recorded_data(pipeline, tiny.call)
        row.distilled, row.finetuned, row.student = trained(pipeline, data)
        row.finetuned += "" if wired else ", on recorded forwards"
    except Exception as error:  # of the pipeline's own code, or a reason
        row.distilled = f"no: {_line(error)}"
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


def outputs_of(wiring: Wiring, batches: Sequence[Batch], outputs: Sequence[Any]) -> Tensor:
    """The model outputs of all samples in their order, (B, *wiring.shape), from each batch's forward."""
    parts = [wiring.model_output(out, len(batch.rows)) for batch, out in zip(batches, outputs, strict=True)]
    order = torch.tensor([row for batch in batches for row in batch.rows])
    return torch.cat(parts)[torch.argsort(order).to(parts[0].device)]
