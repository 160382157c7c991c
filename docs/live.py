"""Draw docs/images/live.svg: the live view in the course of a real run, on this machine.

    python docs/live.py

The run is the command line's own.  Its view is a process of its own, as always; this one keeps a picture and ends.
"""

import io
import json
import re
import sys
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from drumfire.bench import cli
from drumfire.bench.view import generators, process
from drumfire.bench.view.dashboard import Dashboard
from drumfire.bench.view.history import History
from drumfire.bench.view.screen import Look, draw
from drumfire.bench.watch import ViewPlan, Watch
from drumfire.loadgen.record import Record

PICTURE = Path(__file__).parent / "images" / "live.svg"
COMMAND = "drumfire run onnxruntime digits cpu --scenario Server --qps 2000 --time 15"
WIDTH, HEIGHT = 84, 24
"""Columns and lines of the terminal."""
SHARE = 0.7
"""How far the run is when the picture is taken."""
THEME = TerminalTheme(
    (17, 22, 29),
    (201, 209, 217),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
    [
        (72, 79, 88),
        (255, 161, 152),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (240, 246, 252),
    ],
)
FORM = (
    re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    .replace("font-family: Fira Code, monospace", "font-family: DejaVu Sans Mono, Menlo, Consolas, monospace")
    .replace("font-size: {char_height}px", "font-size: 21.4px")
)
"""Rich's, without the fonts that it would fetch from a server; letters are as high as a line, so that bars touch."""


class Camera(Dashboard):
    """The live view whose process is this module."""

    module = "docs.live"


def take() -> None:
    """The view's process: what the run tells its view comes as one line of JSON."""
    view = json.loads(sys.stdin.buffer.readline())
    plan = ViewPlan(**view["plan"])
    history = History()
    watch = Watch(Record.attach(view["fd"], view["layout"]), plan)
    process.write(view["line"], process.READY)
    while (snapshot := watch.look(time.monotonic_ns())).fraction < SHARE:
        history.add(snapshot)
        time.sleep(0.33)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(draw(Look(plan, snapshot, history=history, keys=True), WIDTH, HEIGHT), end="")
    PICTURE.parent.mkdir(exist_ok=True)
    picture = console.export_svg(title=COMMAND, theme=THEME, code_format=FORM, unique_id="live")
    # The edge of a clipped line shows as a hairline through the bars.
    PICTURE.write_text(re.sub(r' clip-path="url\(#live-line-\d+\)"', "", picture))


if __name__ == "__main__":
    if __package__:  # started as a module, by the run
        take()
    else:
        generators.Dashboard = Camera
        sys.exit(cli.main(COMMAND.split()[1:]))
