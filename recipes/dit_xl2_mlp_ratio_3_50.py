"""DiT-XL/2 with narrower MLPs in every second layer, as published (FID 2.53).

surgery plan recipes/dit_xl2_mlp_ratio_3_50.py
"""

from dit_xl2 import dit_xl2

from surgery.rewriting import every
from surgery.rules import mlp_ratio

recipe = dit_xl2(mlp_ratio(3, layers=every(2)))
