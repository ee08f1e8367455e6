"""DiT-XL/2 with sliding windows in every second layer, as published (FID 2.67).

surgery plan recipes/dit_xl2_window_50.py
"""

from dit_xl2 import dit_xl2

from surgery.operators import SlidingWindow
from surgery.rewriting import every
from surgery.rules import replace_attention

recipe = dit_xl2(replace_attention(SlidingWindow(window=4), layers=every(2)))
