"""SD3 medium with linear attention in every fourth layer; what stays of the teacher learns through adapters alone.

surgery plan recipes/sd3_lora.py
"""

from pathlib import Path

from surgery.operators import LinearAttention
from surgery.recipe import Distil, Evaluate, Finetune, Generated, LoRA, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = Recipe(
    model="stabilityai/stable-diffusion-3-medium-diffusers",
    # Made once by the teacher, from a text file with a prompt in each line.
    data=Generated(prompts=Path("prompts.txt"), samples=10_000, steps=28, call={"height": 1024, "width": 1024}),
    rules=[replace_attention(LinearAttention(features="learned"), layers=every(4))],
    distil=Distil(steps=5_000, batch_size=32, micro_batch=4, lr=1e-3),
    finetune=Finetune(steps=10_000, batch_size=32, micro_batch=4, lr=1e-4, lora=LoRA(rank=16), checkpointing=True),
    evaluate=Evaluate(samples=64, steps=28, batch_size=4),
)
