"""``python -m bench`` is ``drumfire``."""

import sys

from bench.cli import main

sys.exit(main())
