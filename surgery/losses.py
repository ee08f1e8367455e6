"""The losses by which a new operator's output is compared with the old one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps an output and its target, of one shape, to a scalar."""

LossName = Literal["l1", "l2", "huber"]

LOSSES: dict[str, Loss] = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.huber_loss}
