"""Pictures on disk: their layouts, how they become a model's input, and generated ones.

Knows files and pixels; must not know a model or a backend.  Importing it costs no imaging library.
"""

from __future__ import annotations


class DataError(ValueError):
    """A data folder or a picture that can not be used.  The text is one line and names the mend."""


EXTRA = "vision"
"""The pip extra whose packages read and draw pictures."""
