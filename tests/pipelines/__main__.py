"""Writes docs/pipelines.md: what can be done with tiny pipelines of diffusers.

Usage: python -m tests.pipelines [PIPELINE ...]

With names of pipelines, their rows are printed and no page is written.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import diffusers
import torch

from tests.pipelines.embedded import EMBEDDED
from tests.pipelines.latest import LATEST
from tests.pipelines.rows import Row, row_of
from tests.pipelines.tiny import PIPELINES

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
ALL = (*PIPELINES, *EMBEDDED, *LATEST)
HEAD = """# Pipelines of diffusers

Tiny pipelines with random weights, built by `tests/pipelines` without a network, and what can be done with each.
*Wired*: how the transformer is fed, as `surgery.measure` finds it, gives every argument of every step of a replayed run
to the bit. *Guidance*: by rows of one forward or by several calls. *Batched*: the largest difference between samples in
one forward and alone, or why they run alone. *Encoded*: whether the way from the latents to the autoencoder could be
inverted. *Distilled*: what is replaced, by random new operators, in how many places, and the loss of held-out samples
after the first and after the last of 20 steps of distillation; *finetuned*: their denoising loss, alike, or, where
nothing is known to make training inputs from, their distance to the teacher's recorded predictions; *student*: whether
it runs in its pipeline afterwards. Written by `make pipelines` with torch {torch} and diffusers {diffusers}.

**{wired} of {total} pipelines are wired, of {classes} transformer classes; {batched} can be batched, {encoded} encode.
Students of {trained} pipelines, of {students} classes, were distilled and finetuned, and run.**

| pipeline | transformer | wired | process | guidance | batched | encoded | distilled | finetuned | student |
|---|---|---|---|---|---|---|---|---|---|
"""


def main(names: list[str]) -> None:
    """Make the rows of the pipelines of these names, all without, and write the page."""
    logging.disable(logging.WARNING)
    rows = []
    for tiny in ALL:
        if not names or tiny.pipeline in names:
            rows.append(row_of(tiny))
            print(rows[-1], file=sys.stderr, flush=True)
    if not names:
        PAGE.write_text(page(rows))


def page(rows: list[Row]) -> str:
    """The page with these rows."""
    whole = [row for row in rows if all(map(row.has, ("distilled", "finetuned", "student")))]
    head = HEAD.format(
        torch=torch.__version__, diffusers=diffusers.__version__, total=len(rows),
        wired=sum(row.has("wired") for row in rows), classes=len({row.transformer for row in rows if row.has("wired")}),
        batched=sum(row.has("batched") for row in rows), encoded=sum(row.has("encoded") for row in rows),
        trained=len(whole), students=len({row.transformer for row in whole}),
    )  # fmt: skip
    return head + "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
