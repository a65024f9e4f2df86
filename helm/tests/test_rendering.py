"""The chart renders as it did, with both versions of Helm, and refuses what it should."""

import difflib
import functools
import os
import re

import pytest
import yaml

from conftest import CASES, CHART, KUBERNETES, TESTS, helm, render_text

GOLDEN = TESTS / "golden"
BAD = sorted((CHART / "ci" / "bad").glob("*.yaml"))


@pytest.mark.parametrize("version", [3, 4])
def test_lint(case, version):
    linted = helm(
        "lint", "--strict", "--kube-version", KUBERNETES, CHART, "-f", CHART / "ci" / f"{case}-values.yaml", version=version
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_both_versions_of_helm_agree(case):
    assert list(yaml.safe_load_all(render_text(case))) == list(yaml.safe_load_all(render_text(case, version=4)))


@pytest.mark.parametrize("crds", [False, True], ids=["bare", "crds"])
def test_golden(case, crds):
    """Everything that a cluster without further APIs gets; and what is there on top where it has them."""
    documents = without_boards(render_text(case, crds=crds))
    if crds:
        bare = without_boards(render_text(case, crds=False))
        assert set(bare) <= set(documents), "more APIs, fewer objects"
        documents = [document for document in documents if document not in bare]
    rendered = "---\n".join(documents)
    golden = GOLDEN / case / ("crds.yaml" if crds else "bare.yaml")
    if os.environ.get("BLESS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(rendered)
    lines = difflib.unified_diff(golden.read_text().splitlines(), rendered.splitlines(), "golden", "now", lineterm="", n=2)
    difference = "\n".join(lines)
    assert not difference, f"{difference}\n\nmeant? BLESS=1 make chart-test, and look at the difference in review"


def without_boards(rendered):
    """Its documents but dashboards and rules: what they say is tested where they are made, that they arrive in test_boards.py."""
    documents = re.split(r"^---\n", rendered, flags=re.M)
    return [document for document in documents if "/dashboards.yaml\n" not in document and "/prometheusrule.yaml\n" not in document]


def test_no_golden_is_left_over():
    assert sorted(path.name for path in GOLDEN.iterdir()) == CASES


@functools.cache
def refusal(bad, version=3):
    base = [] if "# base: none" in bad.read_text() else ["-f", CHART / "ci" / "minimal-values.yaml"]
    refused = helm("template", "firstcome", CHART, "--kube-version", KUBERNETES, *base, "-f", bad, version=version)
    assert refused.returncode != 0, f"{bad.name} was taken"
    return refused.stderr


@pytest.mark.parametrize("bad", BAD, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", [3, 4])
def test_bad_values_are_refused_with_their_reason(bad, version):
    expected = re.findall(r"^# expects: (.+)$", bad.read_text(), re.M)
    assert expected, "says nothing that it expects"
    for message in expected:
        assert message in refusal(bad, version)


def test_each_remedy_has_a_bad_example():
    template = (CHART / "templates" / "validations.yaml").read_text()
    remedies = re.findall(r'append \$wrong \(?(?:printf )?"((?:[^"\\]|\\.)+)"', template)
    assert len(remedies) == template.count("append $wrong") > 20
    said = "\n".join(refusal(bad) for bad in BAD)
    parts = [[re.escape(part) for part in re.split("%[sd]", remedy.replace('\\"', '"'))] for remedy in remedies]
    unseen = [remedy for remedy, known in zip(remedies, parts) if not re.search(".+".join(known), said)]
    assert not unseen, "no file in ci/bad brings these about"
