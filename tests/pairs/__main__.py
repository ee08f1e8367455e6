"""Writes docs/pairs.md: what becomes of two rules on one model, for every pair. Usage: python -m tests.pairs."""

from __future__ import annotations

from pathlib import Path

from tests.pairs.check import outcome_of
from tests.pairs.rules import DEEPER, Model, model

PAGE = Path(__file__).parents[2] / "docs" / "pairs.md"
HEAD = """# Pairs of rules

Every two rules of the library on five models of diffusers, each four layers deep and tiny (Flux: four double-stream and
four single-stream blocks). Above the diagonal both rules are applied in the same layer, on and below it in two different
ones, where there are such that do not conflict.

- **together**: one plan makes both edits.
- **in turn**: one copies or shares what the other changes, so their order matters; the rule of the row was applied first,
  that of the column to its student.
- **overlap**: both claim the same thing, which is refused.

Every student of a pair ran, learnt one step in train mode with gradients for all new parameters, and was saved, loaded
and undone, bit for bit. Rules that fit nowhere in a model are left out, an empty field says that there are no such
layers, and other words in a field say what failed. Written by `make pairs`.

| rule | |
|---|---|
| hyena | `replace_attention(HyenaX(kernel=3))`, of self- and joint attention, as the next two |
| window | `replace_attention(SlidingWindow(window=2))` |
| linear | `replace_attention(LinearAttention())` |
| linear cross | `replace_attention(LinearAttention(), role="cross_attention")` |
| mlp 6, mlp 3 | `mlp_ratio(6)`, `mlp_ratio(3)` |
| parallel | `parallel_pairs()`, of the layer and the next |
| drop, duplicate | `drop_blocks()`, `duplicate_blocks()` |
| share | `share_blocks()`, of the layer and the next |

**{sound} students are sound, {failed} are not; {overlaps} pairs overlap.**
"""


def cells_of(of: Model) -> dict[tuple[str, str], str]:
    """What becomes of each pair, by row and column."""
    names = list(of.fitting)
    cells = {}
    for row, first in enumerate(names):
        for column, second in enumerate(names):
            cells[first, second] = _outcome(of, first, second, row < column)
    return cells


def _outcome(of: Model, first: str, second: str, is_same: bool) -> str:
    try:
        return outcome_of(of, first, second, "same" if is_same else "apart")
    except Exception as error:
        return "fails: " + str(error).partition("\n")[0].replace("|", " ")


def section(name: str, of: Model, cells: dict[tuple[str, str], str]) -> str:
    """The matrix of one model."""
    lines = [f"\n## {type(of.module).__name__}\n", f"| {name} | " + " | ".join(of.fitting) + " |"]
    lines.append("|---" * (len(of.fitting) + 1) + "|")
    lines += [f"| **{a}** | " + " | ".join(cells[a, b] for b in of.fitting) + " |" for a in of.fitting]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    matrices = {}
    for name in DEEPER:
        matrices[name] = cells_of(model(name))
        print(name, flush=True)
    found = [cell for cells in matrices.values() for cell in cells.values()]
    sound = sum(cell in ("together", "in turn") for cell in found)
    failed = sum(cell.startswith("fails") for cell in found)
    head = HEAD.format(sound=sound, failed=failed, overlaps=found.count("overlap"))
    PAGE.write_text(head + "".join(section(name, model(name), cells) for name, cells in matrices.items()))
    print(PAGE, f"{failed} of {len(found)} fail")


if __name__ == "__main__":
    main()
