"""Several generators beside a single generator."""
