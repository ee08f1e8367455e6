"""Judging a model: samples, Frechet distance, latency, FLOPs and the report."""
