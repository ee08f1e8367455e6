"""What the page docs/study.md says in words, and which rows stand beside each other in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD = """# The study

What of a trained diffusion transformer can be replaced, at which cost, and how it is best taught: the questions of
"Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340, here "the paper"), asked on two models that
come with surgery. `make study` runs all rows on `digits-dit`, two at a time, and goes on where it stopped;
`python recipes/study/study.py --bench fashion` does it on `fashion-dit`, and `python recipes/study/page.py` writes this
page from what there is.

- **Teachers**: `digits-dit` has 8 layers on 64 tokens, `fashion-dit` 12 layers on 196 tokens; DiT-XL/2, the paper's, has
  28 on 256. 50 % is every second layer, 75 % three of each four, as in the paper.
- **Training**: 420 updates of 32 samples with Muon, 100 of distillation (stage 1) and 320 of finetuning (stage 2) on the
  teacher's prediction and block outputs, unless a row says otherwise. The paper takes 25,000 and 50,000 updates.
- **Start**: new mixers take over the projections and are fitted in closed form (`inherit="fitted"`), unless a row says
  otherwise.
- **Measure**: the Frechet distance of 1,000 samples at 10 DDIM steps over that of the teacher's samples from the same
  noise, the mean of five draws. ± is the standard error of that mean over the draws, bars in the pictures are two such;
  the grey band is two standard deviations of what two means of five draws of the teacher differ by. Neither holds the
  spread of trainings from other seeds. Hollow marks are the paper's FID over its teacher's.
"""


@dataclass(frozen=True)
class Comparison:
    """Rows that are shown together.

    Attributes:
        title: the question.
        groups: of the rows.
        beside: rows of other groups that they are to be compared with, and what these are called here.
        reading: what is to be said of them, by bench.
    """

    title: str
    groups: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)
    reading: Mapping[str, str] = field(default_factory=dict)


BLEND, HYENA = "all attention: Blend", "Table 4: Hyena-X, 100 %"
MAMBA, NEW_MLP = "Table 4: Mamba-2, 100 %", "self-grafting: MLP, 100 %"

FEW = """5,760 samples are 2 % of the 288,000 that the teacher was trained on. With half of its attention replaced, the
student is 1.19 times as far from the pictures as the teacher, with all of it 1.28 times. Each is one training, so the
difference between them may be one between trainings."""

COMPARISONS = (
    Comparison("All attention replaced, and what training alone costs", ("all attention", "self-grafting")),
    Comparison("The paper's Table 4", ("Table 4", "depth to width")),
    Comparison("One stage or two", ("stages",), {BLEND: "Blend, both", HYENA: "Hyena-X, both"}),
    Comparison(
        "What new operators start from",
        ("inheritance",),
        {BLEND: "Blend, fitted", HYENA: "Hyena-X, fitted", MAMBA: "Mamba-2, fitted"},
    ),
    Comparison("What the student learns", ("targets",), {BLEND: "Blend, prediction and blocks"}),
    Comparison("By what loss operators are distilled", ("losses",), {HYENA: "Hyena-X, L1", NEW_MLP: "MLP, L2"}),
    Comparison("Quality against training samples", ("budget",), reading={"digits-gpu": FEW}),
    Comparison("Which half of the layers", ("layers",), {"Table 4: Hyena-X, 50 %": "Hyena-X, every second"}),
)
