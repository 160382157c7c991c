"""Builds a run from options: a system, a library and settings."""
