"""Drumfire beside other tools: both on the same machine in the same run, several rounds, medians and ratios."""
