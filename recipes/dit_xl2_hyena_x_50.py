"""DiT-XL/2 with Hyena-X in every second layer, as published (FID 2.74).

surgery plan recipes/dit_xl2_hyena_x_50.py
"""

from dit_xl2 import dit_xl2

from surgery.operators import HyenaX
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = dit_xl2(replace_attention(HyenaX(kernel=4, causal=True), layers=every(2)))
