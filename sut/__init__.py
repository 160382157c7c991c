"""What Drumfire measures and what it feeds it with: systems under test, backends, models, samples and protocols.

Implements loadgen's protocols ``SystemUnderTest`` and ``SampleLibrary``.  Does not depend on the command line.
"""
