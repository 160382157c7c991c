"""Models in this machine's processes: the batcher, the backends, and other systems that answer from here."""
