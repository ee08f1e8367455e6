"""DiT-XL/2 with Mamba-2 in every second layer, as published (FID 2.65).

surgery plan recipes/dit_xl2_mamba2_50.py
"""

from dit_xl2 import dit_xl2

from surgery.operators import Mamba2
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = dit_xl2(replace_attention(Mamba2(d_state=64, expand=2, causal=True), layers=every(2)))
