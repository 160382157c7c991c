"""Drumfire's server beside other servers, one client for all of them: ``python -m drumfire.bench.peers.serving``."""
