"""Drumfire's load generator beside mlcommons-loadgen, the reference: ``python -m bench.peers.loadgen``."""
