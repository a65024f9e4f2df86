"""The page beside the pictures: what was done, what each alert said, and the boards."""

import boards
import check

from .injections import OUT_OF_REACH, QUIET_S

HEAD = """\
# The boards, under load and under fire

Made by `make observability-test PICTURES=docs/boards`: a real Prometheus scraped the running stack (Kafka, PostgreSQL, Redis, five services) while crowds
claimed, streams stood open, wallets were read and coupons redeemed; after {quiet} s of quiet, faults were injected one after the other. The pictures are the
boards' own queries over that run. The figures are of one run, of debug builds on a small machine: they show that the curves move, not how fast anything is.

{counted}.

## What was done

| | from | to | |
|---|---|---|---|
"""

ALERTS = """
## What the alerts said

*Before* and *during* are the alert's own metric, at its worst series, just before its fault and while that lasted. An alert is *pending* once its expression is
true, and *firing* once it has been for its `for`; each was silent in the quiet time, and when its fault began.

| alert | fault | before | during | for | came to |
|---|---|---|---|---|---|
"""

BOARDS = """
## What the boards showed

Red numbers are the faults above; shaded is how long each lasted. Instances that were started for a fault are in it, too: what a service has not asked for yet
counts as down; every ten seconds each asks whatever nobody else has asked for.
"""


def told(value):
    if value is None:
        return "-"
    if value > 1e9:
        return "never"  # so long ago was the moment 0
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"


def write(folder, alerts, run, start, counted):
    clock = lambda at: f"{int(at - start) // 60}:{int(at - start) % 60:02}"  # noqa: E731
    lines = [HEAD.format(quiet=QUIET_S, counted=counted)]
    numbers = {}
    for number, injection in enumerate(run.injections, 1):
        lines.append(f"| {number} | {clock(injection.start)} | {clock(injection.end)} | {injection.title} |\n")
        numbers |= dict.fromkeys(injection.alerts, number)
    lines.append(ALERTS)
    for alert in alerts:
        reached = f"{alert.state}: {OUT_OF_REACH[alert.name][1]}, so its metric moves and stays below the threshold" if alert.name in OUT_OF_REACH else alert.state
        link = f"[{alert.name}](../runbooks/{alert.name}.md)"
        lines.append(f"| {link} | {numbers.get(alert.name, '-')} | {told(alert.before)} | {told(alert.during)} | {alert.patience} | {reached} |\n")
    lines.append(BOARDS)
    shown = check.load_boards()
    for uid in boards.BOARDS:
        board = shown[uid]
        lines.append(f"\n### {board['title'].removeprefix('Firstcome / ')}\n\n{board['description']}\n\n![{board['title']}]({uid}.svg)\n")
    (folder / "README.md").write_text("".join(lines))
