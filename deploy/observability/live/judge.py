"""Whether every panel showed something and every alert noticed its fault; and whether this would have been seen otherwise."""

import dataclasses

import check

from .injections import ALERTS, LOW, OUT_OF_REACH, Injection, series_of
from .prometheus import SCRAPE_S


MISSED = 3
"""Evaluations that an alert may be pending for in the quiet time: a scrape that came too late is no alert, nor does it fire."""
BLINKED_MAX = 3
"""Alerts that this may have befallen, and that therefore prove nothing about faults that were not injected."""


@dataclasses.dataclass
class Panel:
    board: str
    title: str
    unit: str
    queries: list
    """[(legend, [(labels, points)])]"""


@dataclasses.dataclass
class Alert:
    name: str
    severity: str
    patience: str
    """Its `for`."""
    before: float | None
    during: float | None
    state: str
    """The furthest that it came: firing, pending or nothing."""
    wrong: str | None


def panels(prometheus, start, end):
    """What every panel of every board shows of the run."""
    found = []
    for uid, board in check.load_boards().items():
        for panel in board["panels"]:
            queries = [(target["legendFormat"], prometheus.over(target["expr"], start, end)) for target in panel["targets"]]
            found.append(Panel(uid, panel["title"], panel["fieldConfig"]["defaults"]["unit"], queries))
    return found


def empty(found):
    return [f"{panel.board}, {panel.title}: {legend or 'its query'} shows nothing" for panel in found for legend, series in panel.queries if not series]


def moving(found):
    """How many queries have a series that is not one flat line."""
    return sum(any(len({value for _, value in points}) > 1 for _, points in series) for panel in found for _, series in panel.queries)


def states(prometheus, alert, start, end):
    """In which states the alert was at any moment of a time."""
    return {labels["alertstate"] for labels, _ in prometheus.over(series_of(alert), start, end)}


def noisy(prometheus, alert, start, end):
    """Whether it said something for longer than a scrape that a busy machine missed."""
    return any(labels["alertstate"] == "firing" or len(points) > MISSED for labels, points in prometheus.over(series_of(alert), start, end))


def worst(prometheus, alert, start, end):
    values = [value for _, points in prometheus.over(ALERTS[alert], start, end) for _, value in points]
    return (min if alert in LOW else max)(values, default=None)


def rules_of_alerts():
    return {rule["alert"]: rule for _, rule in check.load_rules() if "alert" in rule}


def alert(prometheus, name, rule, injection, quiet, end):
    """An alert must be absent in the quiet time and at the moment of its fault, and there while the fault lasts."""
    before = worst(prometheus, name, injection.start - 2 * SCRAPE_S, injection.start)
    over = injection.end + 2 * SCRAPE_S
    during, seen = worst(prometheus, name, injection.start, over), states(prometheus, name, injection.start, over)
    ever = seen | states(prometheus, name, injection.start, end)
    wrong = None
    if before is None or during is None:
        wrong = "its metric is not there"
    elif noisy(prometheus, name, *quiet):
        wrong = "it was pending or firing while nothing was wrong"
    elif earlier := states(prometheus, name, injection.start - SCRAPE_S, injection.start):
        wrong = f"it was {' and '.join(sorted(earlier))} before its fault"
    elif name in OUT_OF_REACH:
        least = OUT_OF_REACH[name][0]
        wrong = None if before < least <= during else f"its metric went from {before} to {during}, not to {least}"
    elif not seen:
        wrong = "it did not notice its fault"
    state = "firing" if "firing" in ever else "pending" if ever else "quiet"
    return Alert(name, rule["labels"]["severity"], rule.get("for", "0m"), before, during, state, wrong)


def alerts(prometheus, run, end):
    """Every alert of the rules; one that nothing is injected for is wrong."""
    known, found = rules_of_alerts(), []
    for name, rule in known.items():
        injection = next((injection for injection in run.injections if name in injection.alerts), None)
        if injection is None or name not in ALERTS:
            found.append(Alert(name, rule["labels"]["severity"], rule.get("for", "0m"), None, None, "quiet", "nothing is injected for it"))
        else:
            found.append(alert(prometheus, name, rule, injection, (run.quiet_start, run.quiet_end), end))
    return found


def controls(prometheus, run, start, end):
    """What must be noticed: (what was planted, what the checks said, or None)."""
    query = next(target["expr"] for board in check.load_boards().values() for panel in board["panels"] for target in panel["targets"] if "decisions_total" in target["expr"])
    for done, old, new in [("a metric renamed in a panel", "decisions_total", "decided_total"), ("a selector of another namespace", "$namespace", "nowhere")]:
        assert old in query
        said = empty([Panel("coupon-overview", "Flow", "ops", [("decided", prometheus.over(query.replace(old, new), start, end))])])
        yield done, next(iter(said), None)
    known = rules_of_alerts()
    quiet = (run.quiet_start, run.quiet_end)
    nothing = Injection("nothing", (), run.quiet_start + 5, run.quiet_end - 5)
    silent = [name for name in ALERTS if not states(prometheus, name, *quiet)]
    unnoticed = [name for name in silent if alert(prometheus, name, known[name], nothing, quiet, run.quiet_end).wrong]
    said = f"{len(unnoticed)} of {len(silent)} alerts: it did not notice its fault" if len(unnoticed) == len(silent) >= len(ALERTS) - BLINKED_MAX else None
    if blinked := sorted(set(ALERTS) - set(silent)):
        print(f"pending for a moment of the quiet time: {', '.join(blinked)}")
    yield "faults that were not injected", said
    injection = run.injections_of("CouponKeysDiffer")
    judged = alert(prometheus, "CouponKeysDiffer", known["CouponKeysDiffer"], injection, (injection.start, injection.end + 2 * SCRAPE_S), end)
    yield "an alert that is noisy in the quiet time", judged.wrong
