"""Replace half of the attention of a small trained DiT by a gated convolution, and train it most of the way back.

surgery apply recipes/quickstart.py
"""

from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewrite import every
from surgery.rules import replace_attention

recipe = Recipe(
    model="digits-dit",
    data="digits",
    # A filter of 33 tokens reaches two rows up and down in the 8 x 8 grid.
    rules=[replace_attention(HyenaX(kernel=33), layers=every(2), inherit="random")],
    distil=Distil(steps=500, batch_size=32, lr=1.5e-2, checkpoint_every=100),
    finetune=Finetune(steps=360, batch_size=32, lr=3e-3, ema_decay=0.98, target="teacher", checkpoint_every=90),
    evaluate=Evaluate(samples=1000, steps=10),
    seed=0,
)
