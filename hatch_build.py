"""Build hook: an editable install has the links in ``drumfire/``, and a wheel has the git revision.

Archives and some checkouts lose links.  The revision is there so that a run of an installed copy can name it.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_DESCRIBE = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]


class Hook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":  # which asks git for the revision itself
            for name in ("bench", "loadgen", "sut", "training"):
                link = root / "drumfire" / name
                if not link.exists():
                    link.symlink_to(f"../{name}")
            return
        if not (root / ".git").exists():  # a source archive, whose revision is not known
            return
        try:
            described = subprocess.run(_DESCRIBE, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name, "revision.txt")
        file.write_text(described.stdout, encoding="ascii")
        build_data["force_include"][str(file)] = "drumfire/loadgen/revision.txt"
