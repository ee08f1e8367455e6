"""The sample store: x0 and conditions of training samples on disk, each row once."""

from surgery.store.filling import fill, filled
from surgery.store.in_memory import InMemory
from surgery.store.order import Order, held_out
from surgery.store.sample import Sample, Skipped, Source
from surgery.store.store import Store

__all__ = ["InMemory", "Order", "Sample", "Skipped", "Source", "Store", "fill", "filled", "held_out"]
