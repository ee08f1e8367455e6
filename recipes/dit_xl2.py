"""What the recipes for DiT-XL/2 share: the training of "Exploring Diffusion Transformer Designs via Grafting".

Not a recipe itself. `imagenet` is a folder with a folder of images for each of the 1,000 classes, which are encoded once.
The statistics are those of ADM (Dhariwal & Nichol 2021), by which the published figures were taken.
"""

from pathlib import Path

from surgery.evaluate.metrics import Fid, Precision, Recall
from surgery.recipe import Distil, Evaluate, Finetune, Images, Recipe
from surgery.rewriting import Rule

REFERENCE = Path("VIRTUAL_imagenet256_labeled.npz")


def dit_xl2(rule: Rule) -> Recipe:
    """The recipe that applies `rule` to DiT-XL/2 as published."""
    return Recipe(
        model="facebook/DiT-XL-2-256",
        data=Images(folder="imagenet", call={"guidance_scale": 1.5}),
        rules=[rule],
        distil=Distil(steps=25_000, batch_size=64, lr=1e-4),
        finetune=Finetune(steps=50_000, batch_size=256, lr=1e-4, ema_decay=0.9999),
        evaluate=Evaluate(
            samples=50_000,
            steps=250,
            batch_size=64,
            metrics=[metric(reference=REFERENCE) for metric in (Fid, Precision, Recall)],
        ),
    )
