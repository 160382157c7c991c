"""Readers under mutated input: ``python -m tests.fuzz TARGET`` (``__main__`` tells how).

A target is a module here with ``SEEDS``, inputs that its reader accepts or nearly accepts, and ``read(data)``, which
returns if the reader behaved and raises otherwise.  A refusal that the reader documents is good behaviour.
A target may add ``TOKENS``, pieces worth inserting.
"""
