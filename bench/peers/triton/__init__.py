"""Drumfire beside perf_analyzer and tritonclient on a local Triton: ``python -m drumfire.bench.peers.triton``."""
