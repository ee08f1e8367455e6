"""FLUX.1-dev at 1024 x 1024 whose image tokens see their neighbourhood and the text, as in CLEAR (arXiv 2412.16112).

surgery plan recipes/flux_neighbourhood.py
"""

from pathlib import Path

from surgery.operators import NeighbourhoodAttention
from surgery.recipe import Distil, Evaluate, Finetune, Generated, Recipe
from surgery.rules import replace_attention

recipe = Recipe(
    model="black-forest-labs/FLUX.1-dev",
    # Made once by the teacher, from a text file with a prompt in each line.
    data=Generated(prompts=Path("prompts.txt"), samples=10_000, steps=28, call={"height": 1024, "width": 1024}),
    # The core alone: projections, norms and rotary embeddings stay. The text stands before the 64 x 64 image tokens.
    rules=[replace_attention(NeighbourhoodAttention(window=15, grid=(64, 64), text="first"))],
    distil=Distil(steps=2_000, batch_size=16, micro_batch=1, lr=1e-4),
    finetune=Finetune(steps=10_000, batch_size=32, micro_batch=1, lr=1e-5, target="teacher", checkpointing=True),
    evaluate=Evaluate(samples=32, steps=28, batch_size=2),
)
