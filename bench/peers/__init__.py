"""Drumfire beside other tools: both on one machine in one run, several rounds, medians and ratios."""
