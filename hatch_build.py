"""Build hook: the git revision goes into the wheel, so that a run of an installed copy can name it."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_DESCRIBE = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]


class RevisionHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        # An editable install asks git itself; a source archive has no .git, and the revision is not known.
        if version == "editable" or not (root / ".git").exists():
            return
        try:
            described = subprocess.run(_DESCRIBE, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name, "revision.txt")
        file.write_text(described.stdout, encoding="ascii")
        build_data["force_include"][str(file)] = "drumfire/loadgen/revision.txt"
