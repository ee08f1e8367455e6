"""Replace half of the attention of a small trained DiT by a gated convolution, and train it nearly all the way back.

surgery apply recipes/quickstart.py
"""

from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = Recipe(
    model="digits-dit",
    data="digits",
    # A filter of 65 tokens reaches four rows up and down in the 8 x 8 grid.
    rules=[replace_attention(HyenaX(kernel=65), layers=every(2), inherit="random")],
    distil=Distil(steps=400, batch_size=32, lr=1.5e-2, checkpoint_every=100),
    finetune=Finetune(
        steps=480,
        batch_size=32,
        lr=5e-3,
        optimizer="muon",
        inherited_lr=0.3,
        ema_decay=0.98,
        target="teacher",
        checkpoint_every=120,
    ),
    evaluate=Evaluate(samples=1000, steps=10, batch_size=50),
    seed=0,
)
