"""Renders the chart, and looks things up in what comes out."""

import functools
import os
import pathlib
import subprocess

import pytest
import yaml

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent.parent
CHART = ROOT / "helm" / "firstcome"
TOOLS = pathlib.Path(os.environ["FIRSTCOME_TOOLS"])
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
# What the cluster knows beside Kubernetes itself.
CRDS = ("monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1")
KUBERNETES = "1.33.0"


def helm(*arguments, version=3, stdin=None):
    """Runs Helm; both versions have to say the same."""
    command = [TOOLS / "bin" / f"helm{version}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)


@functools.cache
def render_text(case, crds=True, version=3, values=None):
    """The chart rendered with a case's values, and with further ones (as YAML) on top."""
    arguments = ["template", "firstcome", CHART, "--namespace", "coupons", "--kube-version", KUBERNETES]
    arguments += ["-f", CHART / "ci" / f"{case}-values.yaml"] if case else []
    arguments += ["-f", "-"] if values else []
    arguments += [f"--api-versions={crd}" for crd in CRDS if crds]
    rendered = helm(*arguments, version=version, stdin=values)
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout


def render(case, **how):
    """The same, as objects."""
    return [thing for thing in yaml.safe_load_all(render_text(case, **how)) if thing]


def of_kind(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def name(thing):
    return thing["metadata"]["name"]


def pods(objects):
    """(object, pod metadata, pod spec) of everything that makes pods."""
    for thing in objects:
        match thing["kind"]:
            case "Pod":
                yield thing, thing["metadata"], thing["spec"]
            case "Deployment" | "Job":
                yield thing, thing["spec"]["template"]["metadata"], thing["spec"]["template"]["spec"]
            case "CronJob":
                template = thing["spec"]["jobTemplate"]["spec"]["template"]
                yield thing, template["metadata"], template["spec"]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def objects(case):
    return render(case)
