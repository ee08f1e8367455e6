"""What the page docs/study.md says in words, and which rows stand beside each other in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD = """# The study

What of a trained diffusion transformer can be replaced, at which cost, and how it is best taught: the questions of
"Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340, here "the paper"), asked on two models that
come with surgery. `make study` runs all rows on `digits-dit`, from three seeds and two at a time, and goes on from the
results that are there; with `--jobs cuda=15` a GPU trains many at once, which NVIDIA's MPS lets run side by side: a
training of each row took 11 minutes. `python recipes/study/study.py --bench fashion` does it on `fashion-dit`, and
`python recipes/study/page.py` writes this page from what there is.

- **Teachers**: `digits-dit` has 8 layers on 64 tokens, `fashion-dit` 12 layers on 196 tokens; DiT-XL/2, the paper's, has
  28 on 256. 50 % is every second layer, 75 % three of each four, as in the paper.
- **Training**: 420 updates of 32 samples with Muon, 100 of distillation (stage 1) and 320 of finetuning (stage 2) on the
  teacher's prediction and block outputs, unless a row says otherwise. The paper takes 25,000 and 50,000 updates.
- **Start**: new mixers take over the projections and are fitted in closed form (`inherit="fitted"`), unless a row says
  otherwise.
- **Measure**: the Frechet distance of 1,000 samples at 10 DDIM steps over that of the teacher's samples from the same
  noise, the mean of five draws of each training. ± is the standard error of that mean over the draws, bars in the
  pictures are two such; the grey band is two standard deviations of what two means of five draws of the teacher differ
  by. What trainings from other seeds differ by, some on a GPU and some on CPUs, is said below; a difference of two rows
  is within the noise if it is less than 1.6 times that, two standard deviations of what two means of three trainings
  differ by. Hollow marks are the paper's FID over its teacher's.
"""


@dataclass(frozen=True)
class Comparison:
    """Rows that are shown together.

    Attributes:
        title: the question.
        groups: of the rows.
        beside: rows of other groups that they are to be compared with, and what these are called here.
        reading: what is to be said of them, by bench; "{0[GROUP: NAME]}" is the ratio of a row.
    """

    title: str
    groups: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)
    reading: Mapping[str, str] = field(default_factory=dict)


BLEND, HYENA = "all attention: Blend", "Table 4: Hyena-X, 100 %"
MAMBA, NEW_MLP = "Table 4: Mamba-2, 100 %", "self-grafting: MLP, 100 %"

SHARES = """Samples are those that a student is trained on: 2, 5, 10 and 20 % of the 288,000 that its teacher was
trained on, all in stage 2. With 10 % the student is {0[budget: all attention, 28,800 samples]:.2f} times as far from
the pictures as the teacher with all of its attention replaced and
{0[budget: half of it, 28,800 samples]:.2f} times with half of it; with 20 % it is
{0[budget: all attention, 57,600 samples]:.2f} and {0[budget: half of it, 57,600 samples]:.2f}. What is left then is
less than the noise floor. From 5 % on, trainings of these rows differ by 0.8 % only, and by that the noise is judged
here. The four layers in which the fitted blend alone changes the model's output least, before any training, end at
{0[budget: the half least harmed, 28,800 samples]:.2f} with 10 %: within the noise of every second layer. Smaller
batches and block outputs that weigh ten times the prediction bring a student nearer to its teacher's predictions, yet
no nearer to the pictures: {0[budget: all attention, 28,800 samples, 16 at a time, blocks x 10]:.2f} and
{0[budget: half of it, 28,800 samples, 16 at a time, blocks x 10]:.2f}."""
KINDS = """Neighbourhoods and linear attention together, as in the quickstart, come closest
({0[all attention: Blend]:.2f}); each of the two alone is further off ({0[all attention: neighbourhood]:.2f} and
{0[all attention: linear]:.2f}). All of them look both ways and start from what the teacher has learnt. Full attention
that starts from random weights is at {0[self-grafting: attention, 100 %]:.2f} after the same training: here most of
what a replacement costs is what its start leaves to be learnt, not the kind of the operator. MLPs are learnt anew at
{0[self-grafting: MLP, 100 %]:.2f}."""
TABLE = """As in the paper, wider and narrower MLPs cost less than any mixer at the same part of the layers; here
Hyena-X in place of MLPs does as well. At 50 % the mixers are between {0[Table 4: Mamba-2, 50 %]:.2f} and
{0[Table 4: Hyena-X, 50 %]:.2f}, within the noise of each other. At 75 % Mamba-2 and the sliding window
({0[Table 4: Mamba-2, 75 %]:.2f} and {0[Table 4: sliding window, 75 %]:.2f}) are ahead of the three Hyenas
({0[Table 4: Hyena-Y, 75 %]:.2f} to {0[Table 4: Hyena-X, 75 %]:.2f}), as in the paper. At 100 % all mixers break down,
where the paper tells no figure as they are above 50. At 50 and 75 % they are further from their teacher than the
paper's, after a fraction of its updates; all that replaces MLPs is nearer. A causal filter of 4 taps sees 3 tokens
back, through 8 layers 24 of 64, and a window of 4 no more than half of the picture; Mamba-2, which sees all that comes
before, is at less than half of their distance. A wider MLP (ratio 6) computes what the teacher computes from its first
step on, as it gets the teacher's weights and zeros, so there is nothing to learn; its trainings end at 1.00 to 1.05,
on the GPU at 1.00."""
STAGES = """An operator that can do what attention does needs no first stage: all updates in stage 2 give
{0[stages: Blend, stage 2 only]:.2f}, both stages {0[all attention: Blend]:.2f}, stage 1 alone
{0[stages: Blend, stage 1 only]:.2f}, which are within the noise of each other. For one that cannot, finetuning makes
it worse by this measure: {0[stages: Hyena-X, stage 1 only]:.1f} with stage 1 alone,
{0[stages: Hyena-X, stage 2 only]:.1f} with stage 2 alone, {0[Table 4: Hyena-X, 100 %]:.1f} with both. The paper's
operators start from random weights, and always have both."""
STARTS = """To a blend the teacher's projections are worth more than any choice of the training but what is
learnt (below): one that starts from them is at {0[inheritance: Blend, projections]:.2f}, and at
{0[inheritance: Blend, random]:.2f} from random weights. After a full training nothing is left of what the fit in closed
form gains a blend ({0[all attention: Blend]:.2f}); Mamba-2, whose products have another scale, keeps it
({0[Table 4: Mamba-2, 100 %]:.1f} against {0[inheritance: Mamba-2, projections]:.1f}). Where the operator cannot see
enough, no start helps."""
TARGETS = """The data alone teach least: {0[targets: Blend, data]:.2f}. The teacher's prediction in place of the noise
that was added gives {0[targets: Blend, prediction]:.2f}, and its blocks' outputs beside it
{0[all attention: Blend]:.2f}; to add the data to both makes it worse again. The paper finetunes on the data, for a
hundred times as long."""
LOSSES = """No difference that is larger than the noise. The paper takes L1 for attention and L2 for MLPs."""
LAYERS = """Which half is replaced decides more than by what: the four layers whose attention is least local are given
up at {0[layers: Hyena-X, least local]:.2f}, the four most local at {0[layers: Hyena-X, most local]:.2f}, the deepest
at {0[layers: Hyena-X, deepest]:.2f}. That is the reverse of what locality suggests: what is local here looks both
ways, which a causal filter does not, and layers that look everywhere alike can be missed. The four
that [a search](search.md) finds, which measures instead of guessing, are at
{0[layers: Hyena-X, found by search]:.2f}, within the noise of the least local ones."""
CLOTHES = """This teacher was trained for minutes, and is far from the pictures at 10 steps of the sampler, so a
student may be nearer to them than it is: neighbourhoods are, at {0[all attention: neighbourhood]:.2f}. What a blend
loses, {0[all attention: Blend]:.2f}, and full attention from random weights,
{0[self-grafting: attention, 100 %]:.2f}, is less than on the digits, on three times as many tokens."""

COMPARISONS = (
    Comparison(
        "All attention replaced, and what training alone costs",
        ("all attention", "self-grafting"),
        reading={"digits": KINDS, "fashion": CLOTHES},
    ),
    Comparison("The paper's Table 4", ("Table 4", "depth to width"), reading={"digits": TABLE}),
    Comparison(
        "One stage or two", ("stages",), {BLEND: "Blend, both", HYENA: "Hyena-X, both"}, reading={"digits": STAGES}
    ),
    Comparison(
        "What new operators start from",
        ("inheritance",),
        {BLEND: "Blend, fitted", HYENA: "Hyena-X, fitted", MAMBA: "Mamba-2, fitted"},
        reading={"digits": STARTS},
    ),
    Comparison(
        "What the student learns", ("targets",), {BLEND: "Blend, prediction and blocks"}, reading={"digits": TARGETS}
    ),
    Comparison(
        "By what loss operators are distilled",
        ("losses",),
        {HYENA: "Hyena-X, L1", NEW_MLP: "MLP, L2"},
        reading={"digits": LOSSES},
    ),
    Comparison("Quality against training samples", ("budget",), reading={"digits": SHARES}),
    Comparison(
        "Which half of the layers",
        ("layers",),
        {"Table 4: Hyena-X, 50 %": "Hyena-X, every second"},
        reading={"digits": LAYERS},
    ),
)
