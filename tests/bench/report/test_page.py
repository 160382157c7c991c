"""The page of saved runs: it needs nothing else, runs nothing of others, and is the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import zlib
from collections import Counter
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.compare.comparison import compare
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.subject import SHOWN, Subject
from drumfire.bench.report import content, page, png, svg, text
from drumfire.bench.report.blocks import Chart, Dash, Report, Table, document
from drumfire.bench.report.figures import duration
from drumfire.loadgen import series
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import load
from drumfire.loadgen.series import Series
from tests.support.made_run import OLD, made, queued

_VOID = {"meta", "path", "rect", "image", "br", "img", "line"}
_GOLDEN = "a1f22531eeea5e806ec041a6f15981bd040b5ec75b4a5db7fb3db8931603539d"
"""SHA-256 of the page of an old run without its picture; print it with ``pytest -s`` where a change is meant."""


class Page(HTMLParser):
    """A page taken apart; that every element is closed is checked on the way."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(*folders: Path, compared: Any = ()) -> tuple[str, Page]:
    html = page.page(content.report([load(folder) for folder in folders], compared))
    return html, Page(html)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("page") / "run", queued(6000))


def with_series(folder: Path) -> Path:
    found = [
        Series.of("server.queue_ns", "ns", "http://127.0.0.1:8001", [0, 10**9, 2 * 10**9], [1e6, float("nan"), 3e6]),
        Series.of("gpu0.power_w", "W", "http://127.0.0.1:8002", [0, 10**9], [float("inf"), float("nan")]),
    ]
    series.save(found, folder)
    return folder


def test_the_page_stands_alone(server: Path) -> None:
    html, found = page_of(server)
    assert len(html) < 400_000
    assert "http:" not in html
    assert "https:" not in html
    for tag, attributes in found.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(name) or "#"), attributes
    assert {"link", "iframe", "object"}.isdisjoint(tag for tag, _ in found.tags)


def test_the_policy_names_the_style_and_the_script_by_their_hashes(server: Path) -> None:
    html, found = page_of(server)
    policy = next(one["content"] for one in found.all("meta") if one.get("http-equiv"))
    assert policy is not None
    style, script = (re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[0] for tag in ("style", "script"))
    for text_, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text_.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_each_drawing_says_what_it_shows_and_has_a_table(server: Path, tmp_path: Path) -> None:
    html, found = page_of(server, with_series(made(tmp_path / "other", queued(3000, seed=2))))
    drawings = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(drawings) == len(found.all("svg")) >= 14
    for drawing in drawings:
        assert re.search(r"<title id=\"[^\"]+\">[^<]+: [^<]*\d[^<]*</title>", drawing)
        assert 'role="img"' in drawing
        assert re.search(r"<details>.*<th scope=\"row\">", drawing, re.DOTALL)
    ids = Counter(attributes["id"] for _, attributes in found.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    assert {one["href"] for one in found.all("a")} == {f"#{one['id']}" for one in found.all("section")}
    assert len(found.all("h1")) == 1
    assert found.all("html")[0]["lang"] == "en"
    assert all("scope" in one for one in found.all("th"))


def test_it_is_readable_without_style_and_scripts(server: Path) -> None:
    """As Jenkins shows it: its policy allows neither."""
    html, found = page_of(server)
    assert re.search(r"<p class=\"\w*valid\"><strong>Result is \w+</strong></p>", html)
    assert re.search(r"<td>p50[^<]+<br>[^<]+<div class=\"defined\">How late", html)  # lines stay apart
    assert re.search(r"<nav[^>]*>(<a href=\"#\w+\">[^<]+</a> ?)+</nav>", html)
    assert "</a><a" not in html
    assert "hidden" in found.all("span")[0]  # what only the script can do
    assert "</span></footer>" in html


def test_what_takes_the_focus_has_a_role_and_a_name(server: Path) -> None:
    _, found = page_of(server)
    focused = [attributes for _, attributes in found.tags if "tabindex" in attributes]
    assert len(focused) > 20
    assert {one["role"] for one in focused} == {"group"}
    assert all(one["aria-label"] for one in focused)
    assert {"Verdict", "What ran", "Figures", "Latency by percentile"} <= {one["aria-label"] for one in focused}


def test_no_line_ends_within_an_option(tmp_path: Path) -> None:
    """A browser may break after each hyphen."""
    result = {"warnings": ["raise --max-latency or -- lower --qps"]}
    html, _ = page_of(made(tmp_path / "run", queued(500), result=result))
    assert "raise <code>--max-latency</code> or -- lower <code>--qps</code></p>" in html


def test_the_cross_hair_finds_the_numbers_that_are_drawn(server: Path) -> None:
    html, found = page_of(server)
    charts = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)[0])
    numbered = [int(one["data-chart"] or "") for one in found.all("div") if "data-chart" in one]
    assert numbered == list(range(len(charts)))
    report = content.report([load(server)])
    latency = next(block for one in report.sections for block in one.blocks if getattr(block, "name", "") == "latency")
    told = next(
        chart for chart in charts if chart["lines"] and [one[0] for one in chart["lines"]][:2] == ["p99", "p50"]
    )
    (name, (first, step), values), line = told["lines"][0], latency.lines[0]
    assert name == line.name
    assert first + step * np.arange(len(values)) == pytest.approx(line.x, rel=1e-3)
    assert values == pytest.approx(line.y, rel=1e-3)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Found to be other than before: was it meant?  Then enter the new hash."""
    folder = tmp_path / "run"
    shutil.copytree(OLD / "42e7558-Server", folder)
    page.write(content.report([load(folder)]), tmp_path / "a.html")
    page.write(content.report([load(folder)]), tmp_path / "b.html")
    html = (tmp_path / "a.html").read_text()
    assert html == (tmp_path / "b.html").read_text()
    plain = re.sub(r"base64,[^\"]+", "", html).replace(str(folder), "FOLDER")
    assert hashlib.sha256(plain.encode()).hexdigest() == _GOLDEN


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&`|*\x1b[31m"


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    result = {"sut_name": EVIL, "command": EVIL, "warnings": [EVIL], "tool": EVIL, "validity": "INVALID",
              "reasons": [EVIL]}  # fmt: skip
    folder = made(tmp_path / "<script>alert(1)<", queued(3000), result=result)
    series.save([Series.of("a", EVIL, EVIL, [0, 1], [1, 2])], folder)
    _, found = page_of(folder, made(tmp_path / "other", queued(3000)))
    assert [one.get("id") for one in found.all("script")] == ["data", None]
    assert found.all("img") == []
    assert "\\u003c" in "".join(found.texts["script"])
    assert "\x1b" not in text.text(content.report([load(folder)]))
    marked = text.markdown(content.report([load(folder)]))
    assert "<img" not in re.sub(r"^    .*$", "", marked, flags=re.M).replace("\\<", "")


@pytest.mark.parametrize("form", [page.page, text.text, text.markdown, lambda report: json.dumps(document(report))])
@pytest.mark.parametrize(
    ("columns", "lacks"),
    [
        (queued(1), []),
        (queued(2), []),
        ({name: np.zeros(300) for name in ("scheduled", "issued", "completed")}, []),
        (queued(500) | {"status": np.full(500, Status.FAILED)}, []),
        (queued(500) | {"status": np.full(500, Status.UNANSWERED), "completed": np.zeros(500)}, []),
        (queued(500) | {"status": np.full(500, Status.MISSING)}, []),
        (queued(3000) | {"scheduled": np.random.default_rng(1).integers(-(2**62), 2**62, 3000)}, []),
        (queued(300), ["columns"]),
        (queued(300), ["columns/scheduled.npy"]),
        (queued(300), ["settings.json"]),
        (queued(300), ["environment.json"]),
        (queued(300), ["result.json"]),
        (queued(300), ["result.json", "columns"]),
    ],
)
def test_an_odd_run_gives_an_honest_report(tmp_path: Path, columns: Any, lacks: list[str], form: Any) -> None:
    folder = with_series(made(tmp_path / "run", columns))
    for name in lacks:
        shutil.rmtree(folder / name) if name == "columns" else (folder / name).unlink()
    report = content.report([load(folder)])
    assert form(report)
    said = " ".join(block.text for block in report.sections[0].blocks if hasattr(block, "text"))
    assert ("Result is unfinished" in said) == ("result.json" in lacks)
    without_lines = bool({"columns", "columns/scheduled.npy", "settings.json"} & set(lacks))
    without_lines |= columns.get("status", [None])[0] == Status.MISSING
    assert ("drawn over time" in said) == without_lines
    assert ("time" in [section.name for section in report.sections]) != without_lines


def test_several_runs_are_laid_over_each_other(server: Path, tmp_path: Path) -> None:
    asked = load(server).result["asked"] | {"qps": 1500.0}
    other = made(tmp_path / "other", queued(6000, rate=1500), result={"asked": asked})
    report = content.report([load(server), load(other)])
    (table, same) = next(one.blocks for one in report.sections if one.name == "machine")
    assert table.rows == [["asked qps", "300", "1,500"]]  # type: ignore[union-attr]
    assert same.folded  # type: ignore[union-attr]
    charts = {block.name: block for one in report.sections for block in one.blocks if hasattr(block, "lines")}
    for name in ("percentiles", "rate-answered", "latency-p99", "lateness-p99"):
        assert [line.name for line in charts[name].lines] == ["run", "other"]
        assert len({line.colour for line in charts[name].lines}) == 2
        assert len({line.dash for line in charts[name].lines}) == 2


def test_beyond_six_runs_there_are_several_charts_on_the_same_axes(tmp_path: Path) -> None:
    columns = queued(6000)
    columns["completed"] = columns["scheduled"] + 10_000
    slower = columns | {"completed": columns["scheduled"] + 700_000}
    runs = [load(made(tmp_path / str(n), slower if n == 6 else columns)) for n in range(7)]
    report = content.report(runs)
    charts = [block for one in report.sections for block in one.blocks if getattr(block, "title", "") == "Latency: p99"]
    assert [[line.name for line in chart.lines] for chart in charts] == [list("012345"), ["6"]]  # type: ignore[union-attr]
    ticks = [re.findall(r'text-anchor="end" fill="#444">([^<]+)', svg.chart(chart)[0]) for chart in charts]  # type: ignore[arg-type]
    assert ticks[0][-1] == ticks[1][-1]


def test_names_of_runs_are_as_long_as_needed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/run", "b/run", "other")]
    for folder in folders:
        shutil.copytree(OLD / "42e7558-Server", folder)
    assert content.labels([load(folder) for folder in folders]) == ["a/run", "b/run", f"{tmp_path.name}/other"]
    assert content.labels([load(folders[0]), load(folders[2])]) == ["run", "other"]
    assert content.labels([load(folders[0])] * 2) == ["run (1)", "run (2)"]


def test_a_comparison_comes_first(server: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "<b>", queued(6000, service_ns=330_000))
    found = compare([[load(server)], [load(other)]], single=True)
    html, page_ = page_of(server, other, compared=[found])
    assert html.index(escape(found.verdict.words)) < html.index("Result is")
    assert "Judged by p99" in page_.texts["caption"]
    row = found.row("p99")
    assert row.a is not None
    assert row.b is not None
    for cell in (duration(row.a), duration(row.b), "16 pairs"):
        assert cell in page_.texts["td"]
    assert found.verdict.words in text.text(content.report([load(server), load(other)], [found])).replace("\n", " ")


def test_each_side_of_a_comparison_has_a_colour(server: Path, tmp_path: Path) -> None:
    runs = []
    for number in range(8):
        runs.append(tmp_path / ("b" if number > 3 else "a") / str(number))
        made(runs[-1], queued(1500, seed=number), result={"started": f"2026-01-01T00:00:0{number}+00:00"})
    sides = [[load(run) for run in runs[:4]], [load(run) for run in runs[4:]]]
    both = [run for side in sides for run in side]
    charts = _charts(content.report(both, [compare(sides)]))
    lines = charts["latency-p99"].lines  # all in one chart
    assert [(line.colour, line.dash) for line in lines] == [(side, Dash(run)) for side in range(2) for run in range(4)]
    pair = [[sides[0][0]], [sides[1][0]]]
    lines = _charts(content.report([run for side in pair for run in side], [compare(pair, single=True)]))[
        "latency-p99"
    ].lines
    assert [(line.colour, line.dash) for line in lines] == [(0, Dash.SOLID), (1, Dash.DASHED)]
    plain = _charts(content.report(both))
    assert [line.colour for line in plain["latency-p99"].lines] == list(range(6))
    assert [line.colour for line in plain["latency-p99-2"].lines] == [0, 1]


def _charts(report: Report) -> dict[str, Chart]:
    return {block.name: block for one in report.sections for block in one.blocks if isinstance(block, Chart)}


def test_each_figure_has_its_interval(server: Path) -> None:
    run = load(server)
    table = _tables(content.report([run]))["Exact figures, and about the 95 % interval of each"]
    cells = {row[0]: row[1] for row in table.rows}
    assert list(cells) == list(SHOWN)
    p50 = of_subject(Subject(run, "run"), "p50")
    assert p50.low is not None
    assert p50.high is not None
    ends = f"{duration(p50.low)} ... {duration(p50.high)}"
    assert cells["p50"].endswith(f" (about {ends})")
    assert cells["p99.9"].endswith(" ... open)")


def _tables(report: Report) -> dict[str, Table]:
    return {block.title: block for one in report.sections for block in one.blocks if isinstance(block, Table)}


def test_text_keeps_to_its_columns(server: Path) -> None:
    shown = text.text(content.report([load(server)]))
    long = [line for line in shown.split("\n") if len(line) > 80]
    assert all(line.startswith(("drumfire run", "folder", "saved in")) or "/" in line for line in long)
    assert "▇" in shown
    assert "█" in shown
    for title in ("Verdict", "Percentiles", "Latency over time", "Over time", "To repeat it", "What the figures are"):
        assert f"\n{title}\n{'-' * len(title)}\n" in shown


def test_markdown_has_its_verdict_in_bold_and_folds_what_is_long(tmp_path: Path) -> None:
    reasons = {"validity": "INVALID", "reasons": ["too *few* queries"]}
    folder = made(tmp_path / "run", queued(3000), result=reasons)
    marked = text.markdown(content.report([load(folder)]))
    assert "\n## Verdict\n\n**Result is INVALID**\n\n* too \\*few\\* queries\n" in marked
    assert "\n\n### Exact figures, and about the 95 % interval of each\n\n| " in marked
    folded = marked[marked.index("<details><summary>Figures</summary>\n\n| ") : marked.index("|\n\n</details>\n")]
    assert "| seeds | " in folded
    heads = re.findall("^(#+) ", marked, re.M)
    assert (heads[0], heads.count("#"), heads[1]) == ("#", 1, "##")
    assert "\n\n\n" not in marked


def test_a_picture_is_a_png_of_its_opacities() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    data = png.opacities(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts = {}
    place = 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert int.from_bytes(data[place + 8 + size : place + 12 + size], "big") == zlib.crc32(name + body)
        parts[name] = body
        place += 12 + size
    assert parts[b"IHDR"][:8] == (4).to_bytes(4, "big") + (3).to_bytes(4, "big")
    assert parts[b"tRNS"] == bytes(range(256))  # so that a pixel's number is its opacity
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (lines[:, 0] == 0).all()
    assert (lines[:, 1:] == pixels).all()


def _luminance(colour: str) -> float:
    colour = colour.lstrip("#")
    colour = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
    parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_texts_have_contrast_in_both_themes() -> None:
    style = Path(page.__file__).with_name("page.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w+)", part)) for part in style.split("@media")[:2]]
    assert [themes[0][f"c{number}"] for number in range(len(svg.COLOURS))] == list(svg.COLOURS)
    for theme in themes:
        paper = _luminance(theme["paper"])
        for name in ("ink", "dim", "good", "bad", "warn", *(f"c{number}" for number in range(6))):
            other = _luminance(theme[name])
            contrast = (max(paper, other) + 0.05) / (min(paper, other) + 0.05)
            assert contrast >= 4.5, (name, theme[name], contrast)
