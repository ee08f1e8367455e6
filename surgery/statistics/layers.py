"""Figures by layer, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from surgery.analysis.roles.operator import mixes
from surgery.graph import ModelGraph, Operator
from surgery.statistics.points import BLOCK

ATTENTION = ("locality", "locality_2d", "locality_3d", "entropy", "sink", "key_mean")
ALWAYS = ("locality", "entropy", "sink", "key_mean")
OF_BLOCKS = ("contribution", "similarity")
OWN_TOKENS = ("self_attention", "joint_attention")

Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Layers:
    """What a model's layers are made of.

    Attributes:
        blocks: their paths, by number.
        operators: those that mix tokens or features, in execution order.
    """

    blocks: Mapping[int, str]
    operators: Sequence[Operator]

    @classmethod
    def of(cls, graph: ModelGraph) -> Layers:
        """Those of a traced model."""
        blocks = {number: path for path, number in graph.layers.items()}
        return cls(blocks, [o for o in graph.operators() if mixes(o.role)])

    def figures(self, found: Figures) -> list[dict[str, Any]]:
        """One entry a layer.

        `layer` is its number, `path` that of the block. What `attention_figures` gives is the mean over the layer's
        attention on its own tokens, joint attention included; a figure that there is not is None. `contribution` and
        `similarity` are those of the block. `operators` has an entry for each operator with its `path`, its `role`, and
        all figures of its own.
        """
        return [self._layer(number, path, found) for number, path in sorted(self.blocks.items())]

    def outside(self, found: Figures) -> list[dict[str, Any]]:
        """An entry for each operator that stands in no block, as a layer's `operators` has."""
        return [_entry(operator, found) for operator in self.operators if operator.layer is None]

    def _layer(self, number: int, path: str, found: Figures) -> dict[str, Any]:
        operators = [o for o in self.operators if o.layer == number]
        attention = [found.get(o.path, {}) for o in operators if o.role in OWN_TOKENS]
        block = found.get(BLOCK + path, {})
        means = {name: _mean([figures[name] for figures in attention if name in figures]) for name in ATTENTION}
        return {
            "layer": number,
            "path": path,
            **{name: mean for name, mean in means.items() if mean is not None or name in ALWAYS},
            **{name: block.get(name) for name in OF_BLOCKS},
            "operators": [_entry(operator, found) for operator in operators],
        }


def by_path(analysis: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of operators and blocks by their paths; where a block is an operator, the operator's count."""
    parts = [part for layer in analysis["layers"] for part in (layer, *layer["operators"])]
    found: dict[str, dict[str, float]] = {}
    for part in (*parts, *analysis["outside"]):
        numbers = {name: value for name, value in part.items() if isinstance(value, float)}
        found[part["path"]] = {**found.get(part["path"], {}), **numbers}
    return found


def _entry(operator: Operator, found: Figures) -> dict[str, Any]:
    return {"path": operator.path, "role": operator.role, **_finished(found.get(operator.path, {}))}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _finished(figures: Mapping[str, float]) -> dict[str, float]:
    """With variances in the place of mean squares."""
    done = {name: value for name, value in figures.items() if not name.endswith("_square")}
    for side in ("in", "out"):
        if f"{side}_square" in figures:
            done[f"{side}_variance"] = max(0.0, figures[f"{side}_square"] - figures[f"{side}_mean"] ** 2)
    return done
