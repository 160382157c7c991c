"""What Drumfire measures: systems under test, the batcher, backends, models and data sets.

Implements loadgen's two protocols.  Knows no command line and no screen.
"""
