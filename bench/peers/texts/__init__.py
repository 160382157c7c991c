"""A text model in process, padded, and served, each beside another way: ``python -m drumfire.bench.peers.texts``."""
