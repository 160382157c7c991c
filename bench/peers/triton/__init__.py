"""Drumfire beside perf_analyzer and tritonclient on one local Triton: ``python -m drumfire.bench.peers.triton``."""
