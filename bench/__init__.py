"""What a person runs: the command line, assembling a run, the live view, reports."""
