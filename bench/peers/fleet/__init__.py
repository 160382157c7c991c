"""Several generators beside one."""
