"""What the recipes for DiT-XL/2 share: the training of "Exploring Diffusion Transformer Designs via Grafting".

Not a recipe itself. The latents are those of ImageNet at 256 x 256, scaled as the model expects them.
"""

from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import Rule


def dit_xl2(rule: Rule) -> Recipe:
    """The recipe that applies `rule` to DiT-XL/2 as published."""
    return Recipe(
        model="facebook/DiT-XL-2-256",
        data="imagenet_256_latents.safetensors",
        rules=[rule],
        distil=Distil(steps=25_000, batch_size=64, lr=1e-4),
        finetune=Finetune(steps=50_000, batch_size=256, lr=1e-4, ema_decay=0.9999),
        evaluate=Evaluate(samples=50_000, steps=250, guidance=1.5),
    )
