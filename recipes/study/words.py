"""What the page docs/study.md says in words."""

from __future__ import annotations

HEAD = """# The study

What of a trained diffusion transformer can be replaced, at which cost, and how it is best taught: the questions of
"Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340, here "the paper"), asked on two models that
come with surgery. `make study` runs all rows on `digits-dit`, one after the other, and goes on where it stopped;
`python recipes/study/study.py --bench fashion` does it on `fashion-dit`.

- **Teachers**: `digits-dit` has 8 layers on 64 tokens, `fashion-dit` 12 layers on 196 tokens; DiT-XL/2, the paper's, has
  28 on 256. 50 % is every second layer, 75 % three of each four, as in the paper.
- **Training**: 420 updates of 32 samples with Muon, 100 of distillation (stage 1) and 320 of finetuning (stage 2) on the
  teacher's prediction and block outputs, unless a row says otherwise. The paper takes 25,000 and 50,000 updates.
- **Start**: new mixers take over the projections and are fitted in closed form (`inherit="fitted"`), unless a row says
  otherwise.
- **Measure**: the Frechet distance of 1,000 samples at 10 DDIM steps over that of the teacher's samples from the same
  noise, the mean of five draws. ± is the standard error of that mean over the draws, bars in the pictures are two such;
  the grey band is two standard deviations of what two means of five draws of the teacher differ by. Neither holds the
  spread of trainings from other seeds.
"""

GROUPS: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    ("What training alone costs, and all attention replaced", ("self-grafting", "all attention"), {}),
    ("Quality against training samples", ("budget",), {}),
    ("The paper's Table 4", ("Table 4", "depth to width"), {}),
    ("One stage or two", ("stages",), {}),
    ("What new operators start from", ("inheritance",), {}),
    ("What the student learns", ("targets", "losses"), {}),
    ("Which layers", ("layers",), {}),
)
"""Title, groups of rows, and what is to be said of them by bench."""
