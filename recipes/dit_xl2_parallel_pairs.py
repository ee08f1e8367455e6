"""DiT-XL/2 half as deep: the 28 blocks as 14 parallel pairs (grafting paper, section on depth and width)."""

from recipes.dit_xl2 import dit_xl2
from surgery.rules import parallel_pairs

recipe = dit_xl2(parallel_pairs())
