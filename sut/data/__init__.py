"""Samples: several named tensors a sample, from files, folders, JSON or a random generator, and image data sets.

Pictures have layouts on disk (``imagenet``, ``coco``), recipes that turn them into a model's input, and generated
stand-ins (``fake``).  Does not depend on a model or a backend.  Importing the package loads no imaging library.
"""

from __future__ import annotations

from drumfire.loadgen.errors import UserError


class DataError(UserError, ValueError):
    """A data folder or a picture cannot be used.  The text is one line and names the fix."""


EXTRA = "vision"
"""The pip extra whose packages read and draw pictures."""
