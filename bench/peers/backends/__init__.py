"""Drumfire beside the loop over a backend that one would write: what the benchmark itself takes of a model's rate."""
