"""Where made files are kept between runs.  Knows the environment's variables and nothing of what is made."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$MODEL_DIR, else the user's cache folder.  It may not exist yet."""
    if "MODEL_DIR" in os.environ:
        return Path(os.environ["MODEL_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "drumfire"
