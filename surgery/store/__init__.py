"""The sample store: x0 and conditions of training samples on disk, each row once."""

from surgery.store.filling import fill
from surgery.store.order import Order, held_out
from surgery.store.sample import Sample, Skipped, Source
from surgery.store.store import Store

__all__ = ["Order", "Sample", "Skipped", "Source", "Store", "fill", "held_out"]
