"""`python3 -m live FOLDER_OF_PROGRAMS FOLDER_OF_TOOLS [--pictures FOLDER]`: the live run. Exit code 1 where a panel shows nothing or an alert does not notice its fault."""

import argparse
import signal
import sys
import time
from pathlib import Path

from . import judge, page
from .injections import Run
from .load import Load
from .pictures import draw
from .prometheus import Prometheus
from .stack import Failed, Stack, free_port

BESIDE = {"reconciler": "reconciler", "notifier-2": "notifier", "notifier-3": "notifier", "reconciler-2": "reconciler", "stock-consumer-2": "stock-consumer",
          "db-writer-2": "db-writer", "api-gateway-2": "api-gateway"}
"""What is started beside the four services of local-stack, and which service it is."""


class Story:
    """What is printed, with the time since the beginning."""

    def __init__(self):
        self.began = time.time()

    def __call__(self, line):
        print(f"{time.time() - self.began:6.1f} s  {line}", flush=True)


def run_and_judge(stack, say, pictures):
    stack.up()
    for name in BESIDE:
        stack.ports[name] = free_port()
    stack.add_reconciler("reconciler")
    prometheus, load = Prometheus(stack), Load(stack)
    prometheus.start({name: BESIDE.get(name, name) for name in stack.ports})
    say("stack, reconciler and Prometheus are up")
    start = time.time()
    run = Run(stack, prometheus, load, say)
    try:
        run.everything()
    finally:
        load.stop()
    end = time.time()
    say("everything was injected; looking at what was shown")
    panels, alerts, controls = judge.panels(prometheus, start, end), judge.alerts(prometheus, run, end), list(judge.controls(prometheus, run, start, end))
    failed = report(panels, alerts, controls)
    if pictures:
        draw(pictures, panels, run.injections, start, end)
        page.write(pictures, alerts, run, start, counted(panels, alerts))
        say(f"pictures are in {pictures}")
    return failed


def report(panels, alerts, controls):
    empty = judge.empty(panels)
    print(f"\n{'alert':<28}{'before':>8}{'during':>8}  reached (for)")
    for alert in alerts:
        print(f"{alert.name:<28}{page.told(alert.before):>8}{page.told(alert.during):>8}  {alert.state} ({alert.patience}){'  FAILED: ' + alert.wrong if alert.wrong else ''}")
    print()
    for line in empty:
        print(f"FAILED {line}")
    for done, said in controls:
        print(f"{'ok' if said else 'FAILED':7}{done} is noticed: {said or 'NOT NOTICED'}")
    print(f"{counted(panels, alerts)}; {sum(bool(said) for _, said in controls)} of {len(controls)} planted faults were noticed")
    return bool(empty or any(alert.wrong for alert in alerts) or not all(said for _, said in controls))


def counted(panels, alerts):
    queries, empty = sum(len(panel.queries) for panel in panels), len(judge.empty(panels))
    noticed = sum(not alert.wrong for alert in alerts)
    return (f"{queries - empty} of {queries} queries of {len(panels)} panels show something, {judge.moving(panels)} of them move; "
            f"{noticed} of {len(alerts)} alerts noticed their fault")


def main():
    parser = argparse.ArgumentParser(prog="live", description=__doc__)
    parser.add_argument("programs", type=Path)
    parser.add_argument("tools", type=Path)
    parser.add_argument("--pictures", type=Path, help="draw every board there")
    arguments = parser.parse_args()
    say = Story()
    # Whoever ends us gets the stack ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    programs = arguments.programs.resolve()
    stack = Stack(programs, programs.parent / "observability-live", arguments.tools / "libfaketime.so.1")
    try:
        return run_and_judge(stack, say, arguments.pictures)
    except Failed as failure:
        print(f"FAILED {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stack.close()
        say("everything has ended")


if __name__ == "__main__":
    sys.exit(main())
