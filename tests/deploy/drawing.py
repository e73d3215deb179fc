"""Draws a dashboard's panels from what Prometheus says, where Grafana would put them: same queries, places, units, stacking.

The project's own drawing, for the pages of this repository; Grafana looks different in the details.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray
from PIL import Image

Json = dict[str, Any]
Ask = Callable[[str], list[Json]]
Event = tuple[float, str]
"""When, in seconds since the beginning, and what."""

COLUMNS, COLUMN_PX, ROW_PX, GAP_PX, DPI = 24, 60, 27, 4, 100
PAGE, CARD, INK, FAINT = "#111217", "#1a1c21", "#d8d9e0", "#8e93a3"
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff9830", "#f2495c", "#b877d9", "#5794f2", "#ca95e5", "#37872d", "#fade2a")
GREEN, RED = "#73bf69", "#f2495c"
HEADING_PX = 24


@dataclass(frozen=True)
class Line:
    """One series: its legend, seconds since the beginning, and values with NaN where there is none."""

    legend: str
    labels: Mapping[str, str]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The newest value that is a number."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite[-1]) if finite.size else math.nan


def draw(panels: Sequence[Json], ask: Ask, until_s: float, events: Sequence[Event], file: Path) -> None:
    """Write these panels, rows among them, as a PNG of 256 colours. `ask` gives the series of a query from 0 to `until_s`."""
    top = min(panel["gridPos"]["y"] for panel in panels)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    mpl.rcParams |= {"font.family": "DejaVu Sans", "font.size": 7.5, "text.color": INK, "axes.edgecolor": FAINT}
    figure = Figure(figsize=(COLUMNS * COLUMN_PX / DPI, rows * ROW_PX / DPI), dpi=DPI, facecolor=PAGE)
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] * COLUMN_PX, place["w"] * COLUMN_PX
        below, height = (rows - (place["y"] - top) - place["h"]) * ROW_PX, place["h"] * ROW_PX
        if panel["type"] == "row":
            _write(figure, panel["title"], (left + 10, below + 9), size=10, weight="bold")
            continue
        _card(figure, panel["title"], (left, below, width, height))
        kind = KINDS[panel["type"]]
        axes = _axes(figure, (left, below, width, height), kind.margins)
        kind.draw(axes, panel, lines_of(panel, ask), until_s)
        if kind.over_time:
            _mark(axes, events, named=place["w"] == COLUMNS)
    figure.savefig(file, facecolor=PAGE)
    with Image.open(file) as drawn:
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def lines_of(panel: Json, ask: Ask) -> list[Line]:
    """Every series of a panel's queries, with its legend filled in."""
    found = []
    for target in panel["targets"]:
        for series in ask(target["expr"]):
            points = np.array(series["values"], dtype=np.float64)
            values = np.where(np.isfinite(points[:, 1]), points[:, 1], np.nan)
            legend = "" if target["legendFormat"] == "__auto" else _filled(target["legendFormat"], series["metric"])
            found.append(Line(legend.strip(), series["metric"], *_without_gaps(points[:, 0], values)))
    return found


def _without_gaps(
    seconds: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A point for every second from the first to the last: a line must not bridge what is not there."""
    every = np.arange(seconds[0], seconds[-1] + 0.5)
    filled = np.full(every.shape, np.nan)
    filled[np.round(seconds - seconds[0]).astype(int)] = values
    return every, filled


def _filled(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


# -- kinds of panels --------------------------------------------------------------------------------------------------


def stat(axes: Axes, panel: Json, lines: Sequence[Line], until_s: float) -> None:
    """The newest value, large, over how it came to be."""
    del until_s
    unit = panel["fieldConfig"]["defaults"]["unit"]
    limit = next((step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]), math.inf)
    axes.axis("off")
    for line in lines:
        colour = RED if line.last >= limit else GREEN
        axes.fill_between(line.seconds, line.values, color=colour, alpha=0.25, linewidth=0)
        axes.plot(line.seconds, line.values, color=colour, linewidth=1)
        axes.text(
            0.5, 0.62, shown(line.last, unit), transform=axes.transAxes, ha="center", va="center", size=17, color=colour
        )
        axes.set_ylim(0, max(1e-9, float(np.nanmax(line.values)) * 2.2))


def timeseries(axes: Axes, panel: Json, lines: Sequence[Line], until_s: float) -> None:
    """Lines over time, or their sum in layers."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    everywhen = np.arange(0, until_s + 0.5)
    below = np.zeros(everywhen.shape)
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    for number, line in enumerate(lines):
        colour = LINES[number % len(LINES)]
        if stacked:
            above = below + np.nan_to_num(np.interp(everywhen, line.seconds, line.values, left=0, right=0))
            axes.fill_between(everywhen, below, above, color=colour, alpha=0.55, linewidth=0, label=line.legend)
            below = above
        else:
            axes.fill_between(line.seconds, line.values, color=colour, alpha=0.08, linewidth=0)
            axes.plot(line.seconds, line.values, color=colour, linewidth=1.2, label=line.legend)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] <= 1e-9 or all(not np.nanmax(line.values) for line in lines if np.isfinite(line.last)):
        axes.set_ylim(0, 1)
    _scales(axes, unit, until_s)
    _legend(axes, [line.legend for line in lines])


def heatmap(axes: Axes, panel: Json, lines: Sequence[Line], until_s: float) -> None:
    """How many fell into each bucket: brighter is more."""
    unit = panel["options"]["yAxis"]["unit"]
    lines = sorted(lines, key=lambda line: float(line.labels["le"]))
    everywhen = np.arange(0, until_s + 1.5)
    up_to = np.array(
        [np.nan_to_num(np.interp(everywhen[:-1], line.seconds, line.values, left=0, right=0)) for line in lines]
    )
    counts = np.maximum(np.diff(up_to, axis=0, prepend=0), 0)
    axes.pcolormesh(
        everywhen, np.arange(len(lines) + 1), np.ma.masked_less(np.sqrt(counts), 0.5), cmap="inferno", rasterized=True
    )
    _scales(axes, unit, until_s)
    step = max(1, len(lines) // 6)
    axes.set_yticks(np.arange(1, len(lines) + 1)[::step])
    axes.set_yticklabels(
        ["∞" if line.labels["le"] == "+Inf" else shown(float(line.labels["le"]), unit) for line in lines][::step]
    )
    axes.grid(visible=False)


def timeline(axes: Axes, panel: Json, lines: Sequence[Line], until_s: float) -> None:
    """A bar for each state while it lasts."""
    alarming = "ALERTS" in panel["targets"][0]["expr"]
    for number, line in enumerate(reversed(lines)):
        on = [(float(when), 1.0) for when, value in zip(line.seconds, line.values, strict=True) if value > 0]
        axes.broken_barh(on, (number + 0.15, 0.7), color=RED if alarming else GREEN, alpha=0.8, linewidth=0)
    _scales(axes, "none", until_s)
    axes.set_ylim(0, max(1, len(lines)))
    axes.set_yticks(np.arange(len(lines)) + 0.5)
    axes.set_yticklabels([line.legend for line in reversed(lines)])
    axes.grid(visible=False)


def table(axes: Axes, panel: Json, lines: Sequence[Line], until_s: float) -> None:
    """The labels of the series that there are at the end."""
    del panel
    axes.axis("off")
    now = [line for line in lines if line.seconds[-1] >= until_s - 5]
    if not now:
        return
    names = sorted(now[0].labels)
    for column, name in enumerate(names):
        for row, text in enumerate([name, *(line.labels.get(name, "") for line in now)]):
            colour = FAINT if row == 0 else INK
            axes.text(column / len(names), 0.95 - 0.17 * row, text, transform=axes.transAxes, va="top", color=colour)


@dataclass(frozen=True)
class Kind:
    """How one kind of panel is drawn, and what it needs around its axes, in pixels: left, below, right."""

    draw: Callable[[Axes, Json, Sequence[Line], float], None]
    margins: tuple[int, int, int]
    over_time: bool = True


KINDS = {
    "stat": Kind(stat, (4, 4, 4), over_time=False),
    "timeseries": Kind(timeseries, (52, 46, 12)),
    "heatmap": Kind(heatmap, (52, 24, 12)),
    "state-timeline": Kind(timeline, (190, 22, 12)),
    "table": Kind(table, (12, 8, 4), over_time=False),
}


# -- ink --------------------------------------------------------------------------------------------------------------


def shown(value: float, unit: str) -> str:
    """A number with its unit, in three digits, as Grafana would write it."""
    if math.isnan(value):
        return "none"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    steps: tuple[tuple[float, float, str], ...]
    if unit == "s":
        steps = ((60, 60, " min"), (1, 1, " s"), (1e-3, 1e-3, " ms"), (0, 1e-6, " µs"))
    elif unit in {"bytes", "Bps"}:
        steps = ((2**30, 2**30, " GiB"), (2**20, 2**20, " MiB"), (2**10, 2**10, " KiB"), (0, 1, " B"))
    else:
        steps = ((1e6, 1e6, "M"), (1e4, 1e3, "k"), (0, 1, ""), (0, 1, ""))
    if value == 0:
        return "0"
    size, name = next((size, name) for least, size, name in steps if abs(value) >= least)
    return f"{value / size:.4g}{name}" if abs(value / size) >= 100 else f"{value / size:.3g}{name}"


def _scales(axes: Axes, unit: str, until_s: float) -> None:
    axes.set_facecolor(CARD)
    axes.set_xlim(0, until_s)
    axes.grid(color="#2c2f36", linewidth=0.6)
    axes.tick_params(colors=FAINT, length=0, labelsize=7)
    axes.xaxis.set_major_formatter(lambda second, _: f"{second:.0f} s")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.yaxis.set_major_locator(MultipleLocator(_step(axes.get_ylim()[1], unit)))
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _step(highest: float, unit: str) -> float:
    """A round step that gives three to six lines: 1, 2 or 5 times a power of ten, powers of two for bytes."""
    least = max(highest, 1e-9) / 6
    if unit in {"bytes", "Bps"}:
        return float(2.0 ** math.ceil(math.log2(least)))
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _mark(axes: Axes, events: Sequence[Event], *, named: bool) -> None:
    """A thin line where something happened, as Grafana's annotations; its name where there is room for it."""
    for when_s, what in events:
        axes.axvline(when_s, color=FAINT, linewidth=0.6, linestyle=(0, (2, 3)))
        if named:
            axes.text(when_s, 1.02, what, transform=axes.get_xaxis_transform(), color=FAINT, size=7)


def _legend(axes: Axes, legends: Sequence[str]) -> None:
    if any(legends):
        wide_px = axes.get_window_extent().width
        columns = max(1, min(len(legends), int(wide_px / (30 + 5.6 * max(map(len, legends))))))
        axes.legend(
            loc="upper left", bbox_to_anchor=(-44 / wide_px, -0.1), ncols=columns, frameon=False, fontsize=7,
            handlelength=1, handletextpad=0.4, columnspacing=1, labelspacing=0.2, borderpad=0.2,
        )  # fmt: skip


def _axes(figure: Figure, box: tuple[int, int, int, int], margins: tuple[int, int, int]) -> Axes:
    left, below, width, height = box
    from_left, from_below, from_right = margins
    inside = (
        left + from_left,
        below + from_below,
        width - from_left - from_right,
        height - from_below - HEADING_PX - 4,
    )
    return figure.add_axes(_share(figure, inside))


def _card(figure: Figure, title: str, box: tuple[int, int, int, int]) -> None:
    left, below, width, height = box
    x, y, w, h = _share(figure, (left + GAP_PX, below + GAP_PX, width - 2 * GAP_PX, height - 2 * GAP_PX))
    card = FancyBboxPatch(
        (x, y), w, h, transform=figure.transFigure, boxstyle="square,pad=0", color=CARD, linewidth=0, zorder=-1
    )
    figure.add_artist(card)
    _write(figure, title, (left + 12, below + height - HEADING_PX + 4), size=8.5)


def _write(figure: Figure, text: str, at: tuple[int, int], **style: Any) -> None:
    x, y, _, _ = _share(figure, (*at, 0, 0))
    figure.text(x, y, text, **style)


def _share(figure: Figure, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Pixels as shares of the figure."""
    wide, high = figure.get_size_inches() * DPI
    left, below, width, height = box
    return left / wide, below / high, width / wide, height / high
