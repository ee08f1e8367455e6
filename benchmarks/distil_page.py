"""The page docs/distil.md, from what `distil.py` saved and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import Any

import distil_plot

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = "images/distil.png"
POLICIES = ("random", "projections", "exact")
KINDS = {"attention": "In the place of attention", "mlp": "In the place of MLPs"}
HEAD = """# Operators, distilled

What stage 1 alone makes of each operator, with each policy of inheritance, on `{model}` at one small budget. The
attention, or the MLP, of every second layer is replaced, and the new operators are distilled; nothing is finetuned.
`make distil` measures it and writes this page.

- **Budget**: {steps} steps of {batch_size} samples with AdamW. The same for all: the data, the seed {seed}, the order of
  the batches, the held-out batch.
- **Learning rate**: each row was trained twice, at {rates}; what counts is the lower held-out loss, {higher} times
  that of the higher rate. Higher ones were not tried.
- **Loss**: of the held-out batch, summed over the replaced layers; L1 for attention and L2 for MLPs, as the rules have
  it, so the two tables do not compare. It is a share: 1 is the loss of operators that return zeros. Before the arrow it
  is that of the untrained student.
- **Frechet distance**: of {samples} samples at {ddim_steps} DDIM steps after distillation, from the same noise for all.
  **The teacher has {teacher:.2f}.** The distance grows as samples get fewer: these figures compare only with one another.
- **Exact**: where it is accepted it gives the weights of `projections`, which is checked, and so the same figures.
- **Costs**: parameters and FLOPs of the new operators over those of the old ones, projections included.

{machine}; one thread, {minutes:.0f} minutes in all.

![Loss and Frechet distance of each operator, by policy]({picture})
"""
READING = (
    "Inherited projections end with a lower loss than a random start in: {lower}. They end with a higher one "
    "in: {higher}. Loss and distance disagree about the better start in: {disagree}.",
    "What starts at a loss below {same:g} has nothing to learn and keeps the distance of the teacher: {kept}.",
    "Of all others, with inherited projections, {attention} is nearest to the teacher in the place of attention, and "
    "{mlp} in that of MLPs.",
    "From a random start the losses in the place of attention end between {least:.2f} and {most:.2f}, that of full "
    "attention itself at {full:.2f}. So at this budget a row says how fast an operator is learnt, not what "
    "it can do in the end.",
    "It is one seed and {batch_size} held-out samples: small differences mean little.",
)
SAME = 1e-3
"""Up to this loss, as a share, a student computes what the teacher does."""


def write(path: Path) -> list[Path]:
    """Write the page and its picture from the file of results."""
    saved = json.loads(path.read_text())
    written = DOCS / "distil.md"
    written.write_text(page(saved))
    return [written, distil_plot.draw(saved["figures"], DOCS / PICTURE)]


def page(saved: dict[str, Any]) -> str:
    """The text of the page."""
    figures = saved["figures"]
    tables = [f"\n## {title}\n\n{table(figures, kind)}\n\n{refusals(figures, kind)}" for kind, title in KINDS.items()]
    return head(saved) + reading(figures) + "".join(tables)


def head(saved: dict[str, Any]) -> str:
    """What was measured, how, and where."""
    figures, setting = saved["figures"], saved["figures"]["setting"]
    where = saved["machine"]
    return HEAD.format(
        **{**setting, "rates": " and ".join(f"{rate:g}" for rate in setting["rates"])},
        higher=_times_higher(figures),
        teacher=figures["teacher"]["frechet"],
        machine=f"{where['processor']}, Python {where['python']}, torch {where['torch']}, diffusers {where['diffusers']}",
        minutes=sum(row["seconds"] for row in figures["rows"].values()) / 60,
        picture=PICTURE,
    )


def _times_higher(figures: dict[str, Any]) -> str:
    """How often the highest learning rate was the better one."""
    measured = [row["policies"][policy] for row in figures["rows"].values() for policy in ("random", "projections")]
    highest = max(figures["setting"]["rates"])
    return f"{sum(cell['lr'] == highest for cell in measured)} of {len(measured)}"


def reading(figures: dict[str, Any]) -> str:
    """What can be read off the figures; all that it names is found in them."""
    rows = figures["rows"]
    lower = [name for name, row in rows.items() if _gain(row, "loss") > 0]
    others = {name: row for name, row in rows.items() if row["policies"]["projections"]["start"] > SAME}
    random = {name: row["policies"]["random"]["loss"] for name, row in rows.items() if row["replaces"] == "attention"}
    found = dict(
        lower="; ".join(lower),
        higher="; ".join(name for name in rows if name not in lower),
        disagree="; ".join(n for n, row in rows.items() if _gain(row, "loss") * _gain(row, "frechet") < 0) or "no row",
        same=SAME,
        kept="; ".join(name for name in rows if name not in others),
        **{kind: _nearest(others, kind) for kind in KINDS},
        least=min(random.values()),
        most=max(random.values()),
        full=random["full"],
        batch_size=figures["setting"]["batch_size"],
    )
    return "\n## What the figures show\n\n" + "".join(_bullet(text.format(**found)) for text in READING)


def _bullet(text: str) -> str:
    return fill(text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False) + "\n"


def _gain(row: dict[str, Any], what: str) -> float:
    """By how much inherited projections end lower than a random start."""
    return float(row["policies"]["random"][what] - row["policies"]["projections"][what])


def _nearest(rows: dict[str, Any], kind: str) -> str:
    """The row of least distance with inherited projections, and that distance."""
    distances = {n: r["policies"]["projections"]["frechet"] for n, r in rows.items() if r["replaces"] == kind}
    name = min(distances, key=distances.__getitem__)
    return f"{name} ({distances[name]:.2f})"


def table(figures: dict[str, Any], kind: str) -> str:
    """The rows of one kind: costs, loss and distance by policy."""
    columns = " | ".join(POLICIES)
    lines = [
        f"| | operator | parameters | FLOPs | loss: {columns} | distance: {columns} |",
        "|---" * 10 + "|",
    ]
    for name, row in figures["rows"].items():
        if row["replaces"] == kind:
            cells = [name, f"`{row['operator']}`", f"{row['params']:.2f}", f"{row['flops']:.2f}"]
            cells += [_loss(row["policies"][policy]) for policy in POLICIES]
            cells += [_distance(row["policies"][policy]) for policy in POLICIES]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def refusals(figures: dict[str, Any], kind: str) -> str:
    """Why `exact` is refused, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in figures["rows"].values():
        if row["replaces"] == kind and "refused" in row["policies"]["exact"]:
            reasons.setdefault(_reason(row["policies"]["exact"]["refused"]), []).append(f"`{row['operator']}`")
    lines = [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "A dash: `exact` is refused, in the operator's words.\n\n" + "\n".join(lines) + "\n"


def _reason(error: str) -> str:
    """The part of a refusal between the operator and the remedy."""
    return error.rpartition(": ")[2].partition(";")[0]


def _loss(cell: dict[str, Any]) -> str:
    return "-" if "refused" in cell else f"{cell['start']:.3f} → {cell['loss']:.3f}"


def _distance(cell: dict[str, Any]) -> str:
    return "-" if "refused" in cell else f"{cell['frechet']:.2f}"
