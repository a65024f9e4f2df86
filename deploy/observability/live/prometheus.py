"""A real Prometheus with the very rules that the chart ships, and its answers."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request

import rules

from .stack import Failed, eventually, free_port, get

SCRAPE_S = 2
"""As often as two cores bear it; Grafana's $__rate_interval is four times that."""
VARIABLES = {"$__rate_interval": f"{4 * SCRAPE_S}s", "$namespace": rules.NAMESPACE, "$service": ".*"}
"""What Grafana would put in: the namespace of the scrape, and All services."""


def filled(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


class Prometheus:
    def __init__(self, stack):
        self.stack = stack
        self.url = f"http://127.0.0.1:{free_port()}"

    def start(self, targets):
        """targets: {instance: service}. Labels are as the chart's PodMonitor and deploy/prometheus.yml give them; instances have names instead of addresses."""
        scraped = [
            {"targets": [f"127.0.0.1:{self.stack.ports[name]}"], "labels": {"instance": name, "service": service, "namespace": rules.NAMESPACE}}
            for name, service in targets.items()
        ]
        configuration = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [f"{rules.FOLDER}/*.yaml", f"{rules.FOLDER}/alerts/*.yaml"],
            "scrape_configs": [{"job_name": "firstcome", "honor_labels": True, "static_configs": scraped}],
        }
        file = self.stack.folder / "prometheus.json"
        file.write_text(json.dumps(configuration))
        program = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={self.stack.folder}/data/prometheus", f"--web.listen-address={self.url[7:]}"]
        process = self.stack.run("prometheus", program)
        eventually("Prometheus is ready", lambda: get(f"{self.url}/-/ready") or self.stack.must_run(process, "prometheus"))

    def ask(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{parameters}: {error.read().decode()}") from error

    def now(self, query):
        """[(labels, value)]"""
        return [(series["metric"], float(series["value"][1])) for series in self.ask("query", query=filled(query))["result"]]

    def value(self, query):
        """The one value of the query; None where there is none."""
        found = [value for _, value in self.now(query) if not math.isnan(value)]
        return found[0] if found else None

    def over(self, query, start, end):
        """[(labels, [(time, value)])]; moments without a number are left out, and series without any."""
        answer = self.ask("query_range", query=filled(query), start=start, end=end, step=SCRAPE_S)["result"]
        found = [(series["metric"], [(at, number) for at, value in series["values"] if not math.isnan(number := float(value))]) for series in answer]
        return [(labels, points) for labels, points in found if points]
