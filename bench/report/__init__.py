"""Shows the results of runs to people."""
