"""The folder that keeps downloaded, generated and installed files between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$MODEL_DIR, else ``drumfire`` in the user's cache folder.  The folder may not exist yet."""
    if "MODEL_DIR" in os.environ:
        return Path(os.environ["MODEL_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "drumfire"
