"""Time to train a model to a quality target.

Depends only on ``drumfire.loadgen.environment``, and no other package depends on it.
"""
