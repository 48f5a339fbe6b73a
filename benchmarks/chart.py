"""The chart of the benchmarks: SVG that is only shapes, text and two colour schemes.

Every bar goes from the reference, 1×, to the median ratio on a logarithmic scale: to the right is slower.
Written by hand, because plotting libraries draw text as outlines or cannot follow the reader's colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.results import Race, Row
from benchmarks.tables import ratio_text

WIDTH, MARGIN = 860, 20
LABELS = 240  # pixels for names, right-aligned to the bars
VALUES = 64  # pixels for the number behind the longest bar
ROW, BAR, TITLE, GAP = 22, 13, 30, 16
TOP = 86
TICKS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
METRICS = {"cpu": "CPU", "wall": "wall"}

STYLE = """
  svg { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
  .page { fill: #ffffff }
  .text { fill: #1f2328 }
  .soft { fill: #59636e }
  .wrong { fill: #b35900 }
  .heading { font-size: 16px; font-weight: 600 }
  .title { font-size: 13.5px; font-weight: 600 }
  .small { font-size: 11px }
  .unit { font-weight: 400 }
  .mine { font-weight: 600 }
  .end { text-anchor: end }
  .middle { text-anchor: middle }
  .halo { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .one { stroke: #59636e; stroke-width: 1.5 }
  .ours { fill: #0969da }
  .other { fill: #b6bfc9 }
  .refuted { fill: none; stroke: #b6bfc9; stroke-dasharray: 3 2 }
  .budget { stroke: #cf222e; stroke-width: 2.5; stroke-linecap: round }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 }
    .text { fill: #f0f6fc }
    .soft { fill: #9198a1 }
    .wrong { fill: #e3a14a }
    .halo { stroke: #0d1117 }
    .grid { stroke: #2a313a }
    .one { stroke: #9198a1 }
    .ours { fill: #4493f8 }
    .other { fill: #4d5661 }
    .refuted { stroke: #59636e }
    .budget { stroke: #ff7b72 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One contender: its ratio, and the budget as a ratio to the same reference, if it has one."""

    row: Row
    ratio: float
    budget: float | None


@dataclass(frozen=True)
class Panel:
    """One race."""

    title: str
    unit: str
    bars: list[Bar]

    @property
    def height(self) -> int:
        """In pixels, the gap below included."""
        return TITLE + ROW * len(self.bars) + GAP


def panel_of(race: Race, metric: str) -> Panel:
    """The race without its reference, the fastest first."""
    reference = race.row(race.reference)
    bars = []
    for row in race.rows:
        found = race.ratio_to_reference(row, metric)
        if found is not None and row is not reference:
            bars.append(Bar(row, found.median, _budget_of(race, row, metric)))
    bars.sort(key=lambda bar: bar.ratio)
    return Panel(race.title, f"{METRICS[metric]} time, 1× is {race.reference}", bars)


def _budget_of(race: Race, row: Row, metric: str) -> float | None:
    """The tightest of its budgets, as a multiple of the reference of the race."""
    marks = []
    for budget in race.budgets:
        if (budget.contender, budget.metric) == (row.name, metric) and budget.against:
            against = race.ratio_to_reference(race.row(budget.against), metric)
            if against is not None:
                marks.append(budget.at_most * against.median)
    return min(marks, default=None)


class Scale:
    """From a ratio to pixels."""

    def __init__(self, ratios: list[float]) -> None:
        self.low = math.log(min([*ratios, 0.5]) * 0.8)
        self.high = math.log(max([*ratios, 4]) * 1.05)
        self.left, self.right = MARGIN + LABELS, WIDTH - MARGIN - VALUES

    def __call__(self, ratio: float) -> float:
        """The horizontal place of ``ratio``."""
        share = (math.log(ratio) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)

    def ticks(self) -> list[float]:
        """The round numbers in reach."""
        return [tick for tick in TICKS if self.low <= math.log(tick) <= self.high]


def draw(heading: str, subheading: str, panels: list[Panel]) -> str:
    """The whole document."""
    ratios = [bar.ratio for panel in panels for bar in panel.bars]
    ratios += [bar.budget for panel in panels for bar in panel.bars if bar.budget]
    scale = Scale(ratios)
    height = TOP + sum(panel.height for panel in panels) + 16
    parts = [
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        _text(MARGIN, 30, heading, "heading text"),
        _text(MARGIN, 49, subheading, "soft"),
        *_legend(70),
    ]
    top = TOP
    for panel in panels:
        parts += _panel(panel, scale, top)
        top += panel.height
    parts += [_text(scale(tick), height - 12, f"{tick:g}×", "soft small middle") for tick in scale.ticks()]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(heading)}</title>\n<desc>{escape(describe(panels))}</desc>\n"
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def describe(panels: list[Panel]) -> str:
    """All of it in words, for those who do not see it."""
    sentences = []
    for panel in panels:
        bars = ", ".join(f"{bar.row.name} {ratio_text(bar.ratio)}" for bar in panel.bars)
        sentences.append(f"{panel.title} ({panel.unit}): {bars}.")
    return " ".join(sentences)


def _panel(panel: Panel, scale: Scale, top: int) -> list[str]:
    bottom = top + TITLE + ROW * len(panel.bars)
    parts = [
        f'<path class="{"one" if tick == 1 else "grid"}" d="M{scale(tick)} {top + TITLE - 6}V{bottom}"/>'
        for tick in scale.ticks()
    ]
    unit = f'<tspan class="unit soft small" dx="10">{escape(panel.unit)}</tspan>'
    parts.append(f'<text class="title text" x="{MARGIN}" y="{top + 15}">{escape(panel.title)}{unit}</text>')
    for index, bar in enumerate(panel.bars):
        parts += _bar(bar, scale, top + TITLE + ROW * index)
    return parts


def _bar(bar: Bar, scale: Scale, top: int) -> list[str]:
    mine = bar.row.role == "ours"
    kind = "ours" if mine else "refuted" if bar.row.wrong else "other"
    start, end = sorted((scale(1), scale(bar.ratio)))
    width = max(round(end - start, 1), 2)
    baseline = top + ROW / 2 + 4
    after = max(end, scale(bar.budget) if bar.budget else 0) + 8
    parts = [
        _text(MARGIN + LABELS - 10, baseline, bar.row.name, "end text mine" if mine else "end soft"),
        _box(kind, start, top + (ROW - BAR) / 2, width, BAR),
    ]
    if bar.budget:
        parts.append(f'<path class="budget" d="M{scale(bar.budget)} {top + 2}v{ROW - 4}"/>')
    number = f'<tspan class="text{" mine" if mine else ""}">{ratio_text(bar.ratio)}×</tspan>'
    note = f'<tspan class="wrong small" dx="8">{escape(bar.row.wrong)}</tspan>' if bar.row.wrong else ""
    room = WIDTH - MARGIN - after
    if note and room < 54 + 5.6 * len(bar.row.wrong):
        note = ""
    parts.append(f'<text class="halo" x="{round(after, 1)}" y="{baseline}">{number}{note}</text>')
    return parts


def _legend(y: int) -> list[str]:
    x = MARGIN
    return [
        _box("ours", x, y - 10),
        _text(x + 29, y, "ckpttool", "text small"),
        _box("other", x + 94, y - 10),
        _text(x + 123, y, "other", "text small"),
        _box("refuted", x + 172, y - 10),
        _text(x + 201, y, "wrong answer", "text small"),
        f'<path class="budget" d="M{x + 297} {y - 11}v13"/>',
        _text(x + 306, y, "budget", "text small"),
        _text(x + 366, y, "logarithmic; left of the line is faster than the reference", "soft small"),
    ]


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{round(x, 1)}" y="{y}">{escape(text)}</text>'


def _box(kind: str, x: float, y: float, width: float = 22, height: int = BAR - 2) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="2"/>'
