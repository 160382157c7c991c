"""Search for inputs on which a reader misbehaves: ``python -m tests.fuzz TARGET…``, or ``all``.

Inputs that fail are written to files; ``--replay FILE`` reads one again.  The status is 1 if one failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz import harness

_MOST_FAILURES = 5
"""Of a target, which may have one cause."""


def main() -> int:
    names = harness.targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="+", choices=[*names, "all"], metavar="TARGET", help=", ".join([*names, "all"])
    )
    parser.add_argument("--inputs", type=int, default=200_000, help="of each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", type=float, default=1e9, help="seconds for each target")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="folder for inputs that fail")
    parser.add_argument("--replay", type=Path, help="read this input alone")
    options = parser.parse_args()
    names = names if "all" in options.targets else options.targets
    with harness.patience():
        return int(sum(_search(name, options) for name in names) > 0)


def _search(name: str, options: argparse.Namespace) -> bool:
    """Whether an input failed."""
    one = harness.target(name)
    if options.replay is not None:
        harness.read_in_time(one.read, options.replay.read_bytes())
        print(f"{name}: {options.replay} is read as it should be")
        return False
    began, count, failures, interrupted = time.monotonic(), 0, 0, False
    while count < options.inputs and failures < _MOST_FAILURES and time.monotonic() - began < options.time:
        rest = options.time - (time.monotonic() - began)
        read, found = harness.search(one, inputs=options.inputs - count, seed=options.seed, seconds=rest, first=count)
        count += read
        if found is not None and isinstance(found.error, KeyboardInterrupt):
            interrupted = True
            break
        if found is not None:
            failures += 1
            traceback.print_exception(found.error)
            path = harness.keep(options.output, name, found)
            print(f"{name}: input {found.number} of seed {options.seed} fails: {path} (--replay)", file=sys.stderr)
    seconds, peak = time.monotonic() - began, harness.peak_bytes() >> 20
    print(f"{name}: {count} inputs in {seconds:.1f} s, {failures} failures, at most {peak} MiB", flush=True)
    if interrupted:
        sys.exit(130)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
