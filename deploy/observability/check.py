#!/usr/bin/env python3
"""Checks boards, rules and runbooks against each other, the catalogue of metrics and the programs: `check.py FOLDER_OF_PROGRAMS [CHECK]`. Needs promtool and amtool in
PATH; no service runs. Each check returns how much it looked at and what is wrong; README.md beside this says which planted fault each has caught."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import boards
import catalogue
import generated
import queries
import rules
import runbooks

ROOT = catalogue.ROOT
SEVERITIES = {"critical", "warning"}
STATIC = {"$__rate_interval": "5m", "$namespace": "firstcome", "$service": ".*"}


def load_boards():
    return {path.stem: json.loads(path.read_text()) for path in sorted(boards.FOLDER.glob("*.json"))}


def load_rules():
    """[(file, rule)] of everything that Prometheus would load."""
    files = sorted(rules.FOLDER.rglob("*.yaml"))
    return [(path, rule) for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def board_queries():
    """[(where, query)]"""
    return [(f"{uid}, {panel['title']}", target["expr"]) for uid, board in load_boards().items() for panel in board["panels"] for target in panel["targets"]]


def all_queries():
    named = board_queries() + [(f"{path.name}, {rule.get('alert') or rule['record']}", rule["expr"]) for path, rule in load_rules()]
    return named + [(f"{page.name}, promql", query) for page in runbooks.pages() for query in runbooks.promql(page)]


def ran(*line):
    done = subprocess.run([*map(str, line)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def promtool(*arguments):
    return ran("promtool", *arguments)


def generated_files():
    made = [(boards.FOLDER, "*.json", boards.files()), (rules.FOLDER, "*.yaml", rules.files())]
    stale = [line for folder, pattern, files in made for line in generated.stale(folder, pattern, files)]
    return sum(len(files) for _, _, files in made), stale


def queries_parse():
    """All in one rule file; promtool names the rule that it cannot read."""
    named = all_queries()
    probes = []
    for number, (_, query) in enumerate(named):
        for variable, value in STATIC.items():
            query = query.replace(variable, value)
        probes.append({"record": f"query_{number}", "expr": query})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "queries.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": probes}]}))
        code, said = promtool("check", "rules", "--lint=none", file)
    wrong = [f"{named[int(number)][0]}: {line.strip()}" for line in said.splitlines() if (number := next(iter(re.findall(r"query_(\d+)", line)), None))]
    return len(named), wrong or ([said] if code else [])


def rule_files_load():
    files = sorted(rules.FOLDER.rglob("*.yaml"))
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    return len(files), [said] if code else []


def names_and_labels():
    """Every name is in the catalogue or recorded by our rules, every label is one of its own, and only what grows is rated."""
    known = catalogue.series()
    known |= {rule["record"]: ("Recorded", {"namespace", "slo"}) for _, rule in load_rules() if "record" in rule}
    wrong, looked = [], 0
    for where, query in all_queries():
        for name, labels in queries.selectors(query):
            looked += 1
            if name not in known:
                wrong.append(f"{where}: {name} is in no release's catalogue")
            elif strange := labels - known[name][1]:
                wrong.append(f"{where}: {name} has no label {', '.join(sorted(strange))}")
        used = [known[name][1] for name, _ in queries.selectors(query) if name in known]
        if used and (strange := queries.grouped_by(query) - set.union(*used)):
            wrong.append(f"{where}: grouped by {', '.join(sorted(strange))}, which nothing in it has")
        wrong += [f"{where}: {name} is a gauge, and rated" for name in queries.rated(query) if known.get(name, ("",))[0] == "Gauge"]
    return looked, wrong


def label_values():
    """Of what this release registers. What the scrape sets, and bucket bounds, are no literals."""
    texts, registered = catalogue.literals(), {f"coupon_{name}" for name in catalogue.registered()}
    texts |= set(catalogue.exceptions().get("values") or {})
    wrong, looked = [], 0
    for where, query in all_queries():
        for name, label, value in queries.matched_values(query):
            if re.sub("_(bucket|count|sum)$", "", name) in registered and label not in {"namespace", "service", "instance", "le"}:
                looked += 1
                if value not in texts:
                    wrong.append(f'{where}: no service says "{value}", which {name} is selected by as {label}')
    return looked, wrong


def boards_are_whole():
    wrong, panels = [], 0
    for uid, board in load_boards().items():
        say = lambda what: wrong.append(f"{uid}: {what}")  # noqa: B023, called in this turn only
        variables = {variable["name"] for variable in board["templating"]["list"]}
        if board["uid"] != uid:
            say("uid and file name differ")
        if not {"datasource", "namespace", "service"} <= variables:
            say("a variable of datasource, namespace and service is missing")
        if "firstcome" not in board["tags"] or not any(link["type"] == "dashboards" and link["tags"] == ["firstcome"] for link in board["links"]):
            say("it is not linked with the other boards")
        titles = [panel["title"] for panel in board["panels"]]
        if len(set(titles)) != len(titles) or len({panel["id"] for panel in board["panels"]}) != len(titles):
            say("two panels have one title or id")
        for panel in board["panels"]:
            panels += 1
            if not panel["description"] or not panel["fieldConfig"]["defaults"].get("unit") or not panel["targets"]:
                say(f"{panel['title']} lacks a description, a unit or a query")
            if any(source["uid"] != "${datasource}" for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]):
                say(f"{panel['title']} names a datasource instead of the variable")
            for alert in re.findall(r"\bCoupon[A-Z]\w+", panel["description"]):
                if alert not in alerts():
                    say(f"{panel['title']} speaks of {alert}, which is no alert")
    for where, query in board_queries():
        for name, labels in queries.selectors(query):
            asked = {"namespace"} if ":" in name else {"namespace", "service"}
            if not asked <= labels:
                wrong.append(f"{where}: {name} is not selected by {' and '.join(sorted(asked))}")
    return panels, wrong


def alerts():
    return {rule["alert"] for _, rule in load_rules() if "alert" in rule}


def alerts_are_whole():
    wrong = []
    for path, rule in load_rules():
        if "alert" not in rule:
            continue
        name, annotations = rule["alert"], rule.get("annotations", {})
        if path.stem != name or path.parent.name != "alerts":
            wrong.append(f"{name} is not in alerts/{name}.yaml")
        if not name.startswith("Coupon"):
            wrong.append(f"{name} does not begin with Coupon")
        if rule["labels"].get("severity") not in SEVERITIES:
            wrong.append(f"{name} has no severity of {', '.join(sorted(SEVERITIES))}")
        if not annotations.get("summary"):
            wrong.append(f"{name} has no summary")
        url = annotations.get("runbook_url", "")
        if url != f"docs/runbooks/{name}.md" or not (ROOT / url).is_file():
            wrong.append(f"{name}: runbook_url {url or 'is missing and'} leads to no page of its own")
        aggregated = re.search(r"\b(sum|min|max|count)\b", queries.blank_strings(rule["expr"]))
        if aggregated and "namespace" not in queries.grouped_by(rule["expr"]):
            wrong.append(f"{name} aggregates namespaces together")
    return len(alerts()), wrong


def written_out(series):
    """A series of cases.yaml as promtool reads it."""
    name, labels = re.fullmatch(r"([\w:]+)(?:\{(.*)\})?", series).groups()
    labels = labels or ""
    extra = [f'{label}="{value}"' for label, value in (("namespace", "firstcome"), ("instance", "a")) if f"{label}=" not in labels]
    return f"coupon_{name}{{{','.join(filter(None, [labels, *extra]))}}}"


def promtool_case(alert, name, case, severity):
    expected = []
    if name.startswith("fires"):
        expected = [{
            "exp_labels": {"severity": severity, "namespace": "firstcome"} | case["labels"],
            "exp_annotations": {"summary": case["summary"], "runbook_url": f"docs/runbooks/{alert}.md"},
        }]
    samples = [{"series": written_out(series), "values": str(values)} for series, values in case["series"].items()]
    tested = [{"eval_time": case["at"], "alertname": alert, "exp_alerts": expected}]
    return {"name": f"{alert} {name}", "interval": "1m", "input_series": samples, "alert_rule_test": tested}


def alerts_fire_and_stay_quiet():
    cases = yaml.safe_load((catalogue.HERE / "cases.yaml").read_text())
    severities = {rule["alert"]: rule["labels"]["severity"] for _, rule in load_rules() if "alert" in rule}
    wrong = [f"{alert} has no case" for alert in sorted(severities.keys() - cases)] + [f"{alert} is no alert" for alert in sorted(cases.keys() - severities)]
    tests = []
    for alert, named in cases.items():
        if not {"fires", "quiet"} <= set(named):
            wrong.append(f"{alert} needs a case that fires and one that stays quiet")
        tests += [promtool_case(alert, name, case, severities.get(alert)) for name, case in named.items()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.yaml"
        files = [str(path) for path in sorted(rules.FOLDER.rglob("*.yaml"))]
        file.write_text(yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": tests}))
        code, said = promtool("test", "rules", file)
    return len(tests), wrong + ([said] if code else [])


def alerts_reach_somebody():
    """Critical pages, warning is a ticket, and what alertmanager.yml names are alerts."""
    file = catalogue.HERE / "alertmanager.yml"
    code, said = ran("amtool", "check-config", file)
    wrong = [said] if code else []
    routed = {rule["alert"]: rule["labels"]["severity"] for _, rule in load_rules() if "alert" in rule}
    for alert, severity in routed.items():
        wanted = {"critical": "page", "warning": "ticket"}.get(severity)
        code, said = ran("amtool", "config", "routes", "test", f"--config.file={file}", f"--verify.receivers={wanted}", f"alertname={alert}", f"severity={severity}")
        if code:
            wrong.append(f"{alert} ({severity}) goes to {said.splitlines()[0] if said else 'nobody'}, not to {wanted}")
    wrong += [f"alertmanager.yml speaks of {name}, which is no alert" for name in re.findall(r"\bCoupon[A-Z]\w+", file.read_text()) if name not in routed]
    return len(routed), wrong


def exceptions_are_needed():
    listed, registered = catalogue.exceptions(), catalogue.registered()
    metrics = listed.get("metrics") or {}
    wrong = [f"{name} is registered now: take it out of exceptions.yaml" for name in metrics if name in registered]
    for command in listed.get("commands") or {}:
        if runbooks.is_command(command, PROGRAMS):
            wrong.append(f"couponctl {command} is there now: take it out of exceptions.yaml")
    wrong += [f'"{value}" is set now: take it out of exceptions.yaml' for value in listed.get("values") or {} if value in catalogue.literals()]
    named = " ".join(query for _, query in all_queries()) + " ".join(page.read_text() for page in runbooks.pages())
    wrong += [f"nothing names {name}: take it out of exceptions.yaml" for name in metrics if f"coupon_{name}" not in named]
    return sum(len(names or {}) for names in listed.values()), wrong


CHECKS = [
    ("boards and rules are what their tables make", generated_files),
    ("rule files load", rule_files_load),
    ("queries parse", queries_parse),
    ("names and labels are in the catalogue", names_and_labels),
    ("label values are in the code", label_values),
    ("boards are whole", boards_are_whole),
    ("alerts are whole", alerts_are_whole),
    ("alerts fire and stay quiet", alerts_fire_and_stay_quiet),
    ("alerts reach somebody", alerts_reach_somebody),
    ("runbooks have their form", lambda: runbooks.form(alerts())),
    ("links of runbooks resolve", runbooks.links),
    ("couponctl lines parse", lambda: runbooks.command_lines(PROGRAMS)),
    ("names in runbooks are real", lambda: runbooks.names(alerts(), PROGRAMS)),
    ("what runbooks quote is in the code", runbooks.reasons),
    ("exceptions are needed", exceptions_are_needed),
]

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not (Path(sys.argv[1]) / "couponctl").is_file():
        sys.exit("give the folder that holds our programs, couponctl among them")
    PROGRAMS = Path(sys.argv[1]).resolve()
    chosen = [(title, check) for title, check in CHECKS if title in sys.argv[2:] or len(sys.argv) == 2]
    failed = 0
    for title, check in chosen:
        looked, wrong = check()
        # A check that has found nothing to look at has not looked.
        wrong = wrong if looked or title.startswith("exceptions") else ["there was nothing to look at"]
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok':7}{title} ({looked})")
        for line in wrong:
            print(f"       {line}")
    print(f"{len(chosen) - failed} of {len(chosen)} checks hold; {sum(len(names or {}) for names in catalogue.exceptions().values())} names are excepted (exceptions.yaml)")
    sys.exit(bool(failed))
