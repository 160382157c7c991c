"""Drumfire's server beside other servers, with the same client: ``python -m drumfire.bench.peers.serving``."""
