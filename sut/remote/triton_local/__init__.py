"""A real Triton server on this machine, for tests and first trials."""
