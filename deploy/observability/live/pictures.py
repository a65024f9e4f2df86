"""Draws each board as the run filled it: one SVG per board, its panels as Grafana lays them out, with the moments of the faults marked."""

import re

import matplotlib

import check

from .prometheus import SCRAPE_S

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "firstcome", "font.family": "sans-serif", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}

from matplotlib import pyplot  # noqa: E402, after the backend is chosen
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

LINES_MAX = 8
"""Lines of a panel: those that move most. What is left out is counted in the legend."""
COLUMNS = 2
TOP, LINE = 1.15, 0.16
"""Inches above the panels, and of a line below them."""
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"]


def number(value):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value / 1000:.3g} k" if abs(value) < 1e6 else f"{value / 1e6:.3g} M"


def spelled(unit):
    """How a panel's unit is written on its axis."""
    unit = unit.removeprefix("red:")
    if unit == "percentunit":
        return lambda value, _: f"{100 * value:,.3g} %" if abs(value) < 10 else f"{100 * value:,.0f} %"
    if unit == "bytes":
        return lambda value, _: f"{value / 2**20:.0f} MiB"
    if unit == "s":
        return lambda value, _: f"{1000 * value:.3g} ms" if 0 < abs(value) < 1 else f"{value:,.3g} s" if abs(value) < 1000 else f"{value:,.0f} s"
    suffix = {"ops": " /s", "reqps": " /s"}.get(unit, "")
    return lambda value, _: number(value) + suffix


def named(legend, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def shortened(name):
    """Ids of coupons are long, and their ends tell them apart as well. What begins with an underscore has no place in a legend of matplotlib."""
    return re.sub(r"\b(c\d+)-[0-9a-f]{28}([0-9a-f]{4})\b", r"\1-…\2", name).removeprefix("_")


def lines(panel):
    """[(name, points)] of a panel, the liveliest first, and how many are left out."""
    every = [(shortened(named(legend, labels)), points) for legend, series in panel.queries for labels, points in series]
    spread = lambda points: max(value for _, value in points) - min(value for _, value in points)  # noqa: E731
    every.sort(key=lambda line: (-spread(line[1]), -max(abs(value) for _, value in line[1]), line[0]))
    if len(every) > LINES_MAX:
        return every[: LINES_MAX - 1], len(every) - LINES_MAX + 1
    return every, 0


def curve(points, start):
    """x and y, interrupted where there was nothing, and without the middle of what is level."""
    x, y = [], []
    for index, (at, value) in enumerate(points):
        if x and at - points[index - 1][0] > 1.5 * SCRAPE_S:
            x.append(points[index - 1][0] - start + 0.1)
            y.append(float("nan"))
        level = 0 < index < len(points) - 1 and points[index - 1][1] == value == points[index + 1][1] and points[index + 1][0] - points[index - 1][0] < 2.5 * SCRAPE_S
        if not level:
            x.append(at - start)
            y.append(value)
    return x, y


def draw_panel(axes, panel, injections, start, end):
    drawn, left_out = lines(panel)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", pad=27)
    last, level = -1e9, 0
    for index, injection in enumerate(injections, 1):
        began = injection.start - start
        axes.axvspan(began, injection.end - start, color="#d62728", alpha=0.07, linewidth=0)
        axes.axvline(began, color="#d62728", alpha=0.35, linewidth=0.6, linestyle=":")
        # Numbers that would lie on one another stand in rows.
        level = (level + 1) % 3 if began - last < 0.03 * (end - start) else 0
        last = began
        axes.annotate(str(index), (began, 1.01 + 0.05 * level), xycoords=("data", "axes fraction"), fontsize=6.5, color="#a01010", ha="center", annotation_clip=False)
    axes.set_xlim(0, end - start)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    if panel.unit == "bool_yes_no":
        draw_states(axes, panel, start)
        return
    for index, (name, points) in enumerate(drawn):
        x, y = curve(points, start)
        axes.plot(x, y, color=COLOURS[index], linewidth=1.3, label=name, marker="." if len(points) < 4 else None, markersize=4)
    if left_out:
        axes.plot([], [], color="none", label=f"and {left_out} that move less")
    values = [value for _, points in drawn for _, value in points]
    if min(values, default=0) >= 0:
        axes.set_ylim(0, 1.08 * max(values, default=0) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(spelled(panel.unit)))
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncol=2, fontsize=7, frameon=False, handlelength=1.2, columnspacing=1, labelspacing=0.25, borderaxespad=0)


def draw_states(axes, panel, start):
    """Yes and no lie on one another as curves: a row for each series, red where it says no."""
    rows = sorted((named(legend, labels), points) for legend, series in panel.queries for labels, points in series)
    for row, (name, points) in enumerate(rows):
        for said, colour in ((1, "#9fd09f"), (0, "#f09090")):
            axes.broken_barh(spans([at - start for at, value in points if value == said]), (row - 0.35, 0.7), color=colour, linewidth=0)
        axes.annotate(name, (0.01, row), xycoords=("axes fraction", "data"), fontsize=6.5, va="center")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def spans(moments):
    """[(from, how long)] of moments that follow one another."""
    found = []
    for at in moments:
        if found and at - sum(found[-1]) < 0.5 * SCRAPE_S:
            found[-1][1] += SCRAPE_S
        else:
            found.append([at, SCRAPE_S])
    return found


def draw_board(file, title, description, panels, injections, start, end):
    rows, told = -(-len(panels) // COLUMNS), -(-len(injections) // COLUMNS)
    below = 0.35 + LINE * told
    height = TOP + 3.3 * rows + below
    figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(12, height), squeeze=False)
    figure.subplots_adjust(left=0.07, right=0.985, top=1 - TOP / height, bottom=(below + 0.95) / height, hspace=0.8, wspace=0.17)
    figure.text(0.02, 1 - 0.3 / height, title, fontsize=14, fontweight="bold")
    figure.text(0.02, 1 - 0.5 / height, description, fontsize=9, color="#444444")
    for axes, panel in zip(grid.flat, panels):
        draw_panel(axes, panel, injections, start, end)
    for axes in list(grid.flat)[len(panels):]:
        axes.axis("off")
    clock = lambda at: f"{int(at - start) // 60}:{int(at - start) % 60:02}"  # noqa: E731
    for index, injection in enumerate(injections, 1):
        column, row = divmod(index - 1, told)
        text = f"{index}: {clock(injection.start)} to {clock(injection.end)}, {injection.title}"
        figure.text(0.03 + 0.48 * column, (below - 0.1 - LINE * (row + 1)) / height, text, fontsize=7.5, color="#a01010")
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    slim(file)


def slim(file):
    """A tenth of a point is enough, and so is one name of a font."""
    place = re.compile(r'(?<= )((?:d|x|y|points|transform)=")([^"]*)"')
    rounded = lambda text: re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), text)  # noqa: E731
    text = place.sub(lambda match: f'{match[1]}{rounded(match[2])}"', file.read_text())
    text = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", text)
    file.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def draw(folder, panels, injections, start, end):
    folder.mkdir(parents=True, exist_ok=True)
    for uid, board in check.load_boards().items():
        shown = [panel for panel in panels if panel.board == uid]
        draw_board(folder / f"{uid}.svg", board["title"], board["description"], shown, injections, start, end)
