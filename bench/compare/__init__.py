"""Compares saved runs: intervals of the ratio of their figures, what makes them doubtful, and a verdict."""
