"""DiT-XL/2 with Hyena-SE in every second layer, as published (FID 2.73).

surgery plan recipes/dit_xl2_hyena_se_50.py
"""

from dit_xl2 import dit_xl2

from surgery.operators import HyenaSE
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = dit_xl2(replace_attention(HyenaSE(kernel=4, causal=True), layers=every(2)))
