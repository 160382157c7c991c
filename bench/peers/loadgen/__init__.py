"""Drumfire's load generator beside mlcommons-loadgen, the reference: ``python -m drumfire.bench.peers.loadgen``."""
