"""The students of the study: what is replaced, how they are taught, in the order of their importance.

Not a recipe itself. All are trained for 420 updates, somewhat more than the quickstart's, of which 100 are distillation,
and block outputs weigh as much as the prediction, unless a row says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.operators import (
    TTT,
    Blend,
    FullAttention,
    GatedDelta,
    HyenaSE,
    HyenaX,
    HyenaXMLP,
    HyenaY,
    LinearAttention,
    Mamba2,
    MixerConfig,
    NeighbourhoodAttention,
    SlidingWindow,
    SparseLinear,
)
from surgery.recipe import Distil, Finetune, Recipe, Target
from surgery.rewriting import Rule, Selection, all_layers, every, indices, three_of_four, top
from surgery.rules import alternate, mlp_ratio, parallel_pairs, replace_attention, replace_mlp

UPDATES, DISTILLED, BATCH, KEPT_EVERY = 420, 100, 32, 60
BUDGETS = (5_760, 14_400, 28_800, 57_600)
"""Samples: 2, 5, 10 and 20 % of the 288,000 that `digits-dit` was trained on."""
GOAL = 28_800
"""Of these, the samples for which other layers and settings are tried as well."""
SEEDS = 3
"""Of the trainings with these."""
PARTS: dict[int, Selection] = {100: all_layers(), 50: every(2), 75: three_of_four()}
NEAR = NeighbourhoodAttention(window=5)
FAR = LinearAttention(features="learned", centre=True, depthwise=3, axes=2)
BLEND = Blend(parts=(NEAR, FAR))
PUBLISHED: dict[str, MixerConfig] = {
    "Hyena-X": HyenaX(kernel=4, causal=True),
    "sliding window": SlidingWindow(window=4),
    "Mamba-2": Mamba2(d_state=64, expand=2, causal=True),
    "Hyena-SE": HyenaSE(kernel=4, causal=True),
    "Hyena-Y": HyenaY(kernel=4, causal=True),
}
"""The mixers of the paper's Table 4, as published."""
WHOLE: dict[str, MixerConfig] = {
    "Blend": BLEND,
    "neighbourhood": NEAR,
    "linear": FAR,
    "SparseLinear": SparseLinear(block=8, top=2),
    "TTT": TTT(),
    "gated delta": GatedDelta(),
    "Hyena-X of 65 taps": HyenaX(kernel=65),
}


@dataclass(frozen=True)
class Row:
    """A student.

    Attributes:
        group: the question that it belongs to.
        name: its own, together with the group.
        rules: what is done to the teacher.
        distil, finetune: updates of each stage.
        settings: of the finetuning, besides those of all rows.
        seeds: trainings that it is to have, each from another seed.
        like: its layers are found by a search that may cost the FLOPs of these; None if the rules say which.
        least_harmed: how many layers it has, those in which the edit alone harms least; None if the rules say which.
    """

    group: str
    name: str
    rules: tuple[Rule, ...]
    distil: int = DISTILLED
    finetune: int = UPDATES - DISTILLED
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1
    like: Selection | None = None
    least_harmed: int | None = None

    @property
    def key(self) -> str:
        """What it is called in the results."""
        return f"{self.group}: {self.name}"

    @property
    def updates(self) -> int:
        """Of both stages."""
        return self.distil + self.finetune

    def recipe(self, model: str, data: Any, seed: int, library: Path) -> Recipe:
        """The recipe that makes it; it is judged afterwards, by several draws.

        What one row has distilled is in `library` for those that differ in their layers or in stage 2 only.
        """
        settings: dict[str, Any] = {"batch_size": BATCH, "lr": 5e-3, "target": "teacher", **self.settings}
        return Recipe(
            model=model,
            data=data,
            rules=self.rules,
            distil=Distil(
                steps=self.distil, batch_size=BATCH, lr=5e-3, optimizer="muon", library=library
            ),
            finetune=Finetune(
                steps=self.finetune, optimizer="muon", inherited_lr=0.3, ema_decay=0.98, checkpoint_every=KEPT_EVERY,
                **settings,
            ),
            evaluate=None,
            seed=seed,
        )  # fmt: skip


def rows(blocks: int) -> list[Row]:
    """All of them for a model of so many blocks, the most important ones first."""
    whole, half, three_quarters = (published(part) for part in PARTS)
    return [
        *budgets(blocks), *hybrids(), *noise(), *whole, *depth(), *half, *stages(), *losses(), *inheritance(), *targets(),
        *layers(blocks), *three_quarters,
    ]  # fmt: skip


def fitted(operator: MixerConfig, chosen: Selection | None = None) -> Rule:
    """Attention replaced by an operator that starts from the teacher's projections, fitted."""
    return replace_attention(operator, layers=chosen, inherit="fitted")


def noise() -> list[Row]:
    """What training alone costs: the same operators with new weights (self-grafting)."""
    return [
        Row("self-grafting", "attention, 100 %", (replace_attention(FullAttention(), inherit="random"),)),
        Row("self-grafting", "MLP, 100 %", (mlp_ratio(4, inherit="random"),)),
    ]


def budgets(blocks: int) -> list[Row]:
    """Quality against the samples that a student is trained on, all of them in stage 2."""
    layers = {"all attention": None, "half of it": every(2)}
    plain = [
        Row("budget", f"{name}, {samples:,} samples", (fitted(BLEND, chosen),), 0, samples // BATCH, seeds=SEEDS)
        for samples in BUDGETS
        for name, chosen in layers.items()
    ]
    finer: dict[str, Any] = {"batch_size": BATCH // 2, "lr": 3.5e-3, "target": Target(data=0, blocks=10)}
    updates = GOAL // BATCH
    return [
        *plain,
        Row(
            "budget", f"the half least harmed, {GOAL:,} samples", (fitted(BLEND),), 0, updates,
            seeds=SEEDS, least_harmed=blocks // 2,
        ),
        *(
            Row(
                "budget", f"{name}, {GOAL:,} samples, 16 at a time, blocks x 10", (fitted(BLEND, chosen),), 0,
                2 * updates, finer,
            )
            for name, chosen in layers.items()
        ),
    ]  # fmt: skip


def published(part: int) -> list[Row]:
    """The paper's Table 4 at a part of the layers, in percent."""
    chosen = PARTS[part]
    rules: dict[str, Rule] = {name: fitted(operator, chosen) for name, operator in PUBLISHED.items()}
    rules |= {f"MLP ratio {ratio}": mlp_ratio(ratio, layers=chosen) for ratio in (3, 6)}
    rules["Hyena-X MLP"] = replace_mlp(HyenaXMLP(ratio=2, kernel=4), layers=chosen, inherit="random")
    return [Row("Table 4", f"{name}, {part} %", (rule,)) for name, rule in rules.items()]


def depth() -> list[Row]:
    """Depth to width: pairs of blocks side by side."""
    firsts = {100: None, 50: every(4, first=2), 75: every(2, first=0) & ~every(8, first=0)}
    return [Row("depth to width", f"{part} %", (parallel_pairs(layers=chosen),)) for part, chosen in firsts.items()]


def hybrids() -> list[Row]:
    """All attention replaced by operators that the paper does not have."""
    in_turn = alternate(
        NeighbourhoodAttention(window=3), NeighbourhoodAttention(window=3, dilation=2), inherit="fitted"
    )
    return [
        *(Row("all attention", name, (fitted(operator),)) for name, operator in WHOLE.items()),
        Row("all attention", "Alternate", in_turn),
    ]


def stages() -> list[Row]:
    """One stage or two, at the same number of updates."""
    operators = {"Blend": BLEND, "Hyena-X": PUBLISHED["Hyena-X"]}
    ways: dict[str, tuple[int, int]] = {"stage 1 only": (UPDATES, 0), "stage 2 only": (0, UPDATES)}
    return [
        Row("stages", f"{name}, {way}", (fitted(operator),), *steps)
        for name, operator in operators.items()
        for way, steps in ways.items()
    ]


def targets() -> list[Row]:
    """Whether stage 2 imitates the teacher."""
    parts = {
        "data": "data",
        "prediction": Target(data=0, blocks=0),
        "data, prediction and blocks": Target(),
    }
    return [Row("targets", f"Blend, {name}", (fitted(BLEND),), settings={"target": t}) for name, t in parts.items()]


def inheritance() -> list[Row]:
    """What new operators start from, besides "fitted" in the rows above."""
    operators = {"Blend": BLEND, **{name: PUBLISHED[name] for name in ("Hyena-X", "Mamba-2")}}
    return [
        Row("inheritance", f"{name}, {policy}", (replace_attention(operator, inherit=policy),))
        for name, operator in operators.items()
        for policy in ("random", "projections")
    ]


def layers(blocks: int) -> list[Row]:
    """Which half of the layers, besides every second one in the rows above, whose FLOPs the search keeps to."""
    half = blocks // 2
    chosen: dict[str, Selection] = {
        "deepest": indices(*range(half, blocks)),
        "most local": top("locality", half),
        "least local": top("locality", half, least=True),
    }
    operator = PUBLISHED["Hyena-X"]
    found = Row("layers", "Hyena-X, found by search", (fitted(operator),), like=PARTS[50])
    return [found, *(Row("layers", f"Hyena-X, {name}", (fitted(operator, each),)) for name, each in chosen.items())]


def losses() -> list[Row]:
    """By what loss operators are distilled; attention has L1 and MLPs have L2 in the rows above."""
    attention = fitted(PUBLISHED["Hyena-X"])
    mlp = mlp_ratio(4, inherit="random")
    rules = {"Hyena-X, L2": (attention, "l2"), "Hyena-X, Huber": (attention, "huber"), "MLP, L1": (mlp, "l1")}
    return [Row("losses", name, (rule.model_copy(update={"loss": loss}),)) for name, (rule, loss) in rules.items()]
