"""The figures by which a model can be judged, one in each file.

Those that only models of the digits have are in `surgery.digits.metrics`.
"""

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import AnyMetric, Metric
from surgery.evaluate.metrics.fid import Fid
from surgery.evaluate.metrics.flops import Flops
from surgery.evaluate.metrics.held_out_loss import HeldOutLoss
from surgery.evaluate.metrics.kid import Kid
from surgery.evaluate.metrics.latency import Latency
from surgery.evaluate.metrics.params import Params
from surgery.evaluate.metrics.precision import Precision
from surgery.evaluate.metrics.recall import Recall
from surgery.evaluate.metrics.speed_up import SpeedUp
from surgery.evaluate.metrics.teacher_distance import TeacherDistance

COSTS: tuple[Metric, ...] = (Params(), Flops(), Latency())
"""What a run measures whatever its recipe says."""

__all__ = [
    "COSTS",
    "AnyMetric",
    "Context",
    "Fid",
    "Flops",
    "HeldOutLoss",
    "Kid",
    "Latency",
    "Metric",
    "Params",
    "Precision",
    "Recall",
    "SpeedUp",
    "TeacherDistance",
]
