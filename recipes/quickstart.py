"""Replace every second attention of a small trained DiT by a gated convolution, and train it back to quality.

surgery apply recipes/quickstart.py
"""

from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewrite import every
from surgery.rules import replace_attention

recipe = Recipe(
    model="digits-dit",
    data="digits",
    rules=[replace_attention(HyenaX(kernel=4), layers=every(2))],
    distil=Distil(steps=300, lr=1e-3),
    finetune=Finetune(steps=200, lr=3e-4, ema_decay=0.99),
    evaluate=Evaluate(samples=1000, steps=25),
    seed=0,
)
