"""From options to a system, a library and settings, ready to run."""
