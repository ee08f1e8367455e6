"""Replace all attention of a small trained DiT by local and linear attention, blended, and train it back.

surgery apply recipes/quickstart.py
"""

from surgery.operators import Blend, LinearAttention, NeighbourhoodAttention
from surgery.recipe import Distil, Evaluate, Finetune, Recipe, Target
from surgery.rules import replace_attention

near = NeighbourhoodAttention(window=5)
far = LinearAttention(features="learned", centre=True, depthwise=3, axes=2)

recipe = Recipe(
    model="digits-dit",
    data="digits",
    # What is linear in the new operators is solved for on the teacher's activations: a start that needs no distillation.
    rules=[replace_attention(Blend(parts=(near, far)), inherit="fitted")],
    distil=Distil(steps=0),
    # What each block gives weighs ten times what the model predicts: it says at every depth what to mend.
    finetune=Finetune(
        steps=360,
        batch_size=32,
        lr=5e-3,
        optimizer="muon",
        inherited_lr=0.3,
        ema_decay=0.98,
        target=Target(data=0, teacher=1, blocks=10),
        checkpoint_every=120,
    ),
    evaluate=Evaluate(samples=1000, steps=10, batch_size=50),
    seed=0,
)
