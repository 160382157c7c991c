"""Time to train.  Stands alone: imports nothing of the other packages, and they import nothing of it."""
