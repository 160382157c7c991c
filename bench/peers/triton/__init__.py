"""Drumfire beside perf_analyzer and tritonclient on one local Triton: ``python -m bench.peers.triton``."""
