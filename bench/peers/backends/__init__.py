"""Drumfire beside a hand-written loop over a backend: what the benchmark itself costs of a model's rate."""
