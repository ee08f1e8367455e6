"""Wan 2.1 14B at 480 x 832 and 81 frames, each token with a window in space and time.

surgery plan recipes/wan_windows.py
"""

from pathlib import Path

from surgery.operators import NeighbourhoodAttention
from surgery.recipe import Distil, Evaluate, Finetune, Generated, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = Recipe(
    model="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    # Made once by the teacher, from a text file with a prompt in each line.
    data=Generated(
        prompts=Path("prompts.txt"), samples=2_000, steps=50, call={"height": 480, "width": 832, "num_frames": 81}
    ),
    # 81 frames of 480 x 832 pixels are 21 x 30 x 52 tokens.
    rules=[replace_attention(NeighbourhoodAttention(window=11, grid=(21, 30, 52)), layers=every(2))],
    distil=Distil(steps=1_000, batch_size=8, micro_batch=1, lr=1e-4),
    finetune=Finetune(steps=4_000, batch_size=16, micro_batch=1, lr=1e-5, target="teacher", checkpointing=True),
    evaluate=Evaluate(samples=8, steps=50, batch_size=1),
)
