"""DiT-XL/2 half as deep: its 28 blocks as 14 parallel pairs, as published (FID 2.77).

surgery plan recipes/dit_xl2_parallel_pairs.py
"""

from dit_xl2 import dit_xl2

from surgery.rules import parallel_pairs

recipe = dit_xl2(parallel_pairs())
