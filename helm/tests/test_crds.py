"""What the chart makes of others' kinds, against the definitions that a cluster would check it with; unknown fields, which a cluster drops in silence, are errors."""

import copy

import jsonschema
import pytest
import yaml

from conftest import TOOLS, name, of_kind, render

# Where each definition comes from: tools.sh.
KINDS = {"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules", "HTTPRoute": "httproutes"}
# Read by an operator, not by the schema: a cluster takes whatever stands there.
OPEN = "x-kubernetes-preserve-unknown-fields"


def strict(schema):
    """The definition's schema as JSON schema: closed objects, Kubernetes' own words spelled out."""
    match schema:
        case list():
            return [strict(each) for each in schema]
        case dict():
            schema = {word: strict(value) for word, value in schema.items()}
            if schema.pop("x-kubernetes-int-or-string", False):
                schema.pop("type", None)
                schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
            if isinstance(schema.get("properties"), dict) and not schema.get(OPEN):
                schema.setdefault("additionalProperties", False)
            return schema
    return schema


def validator(thing):
    definition = yaml.safe_load((TOOLS / "crds" / f"{KINDS[thing['kind']]}.yaml").read_text())
    group, version = thing["apiVersion"].split("/")
    assert definition["spec"]["group"] == group
    [served] = [each for each in definition["spec"]["versions"] if each["name"] == version and each["served"]]
    schema = strict(served["schema"]["openAPIV3Schema"])
    # metadata is Kubernetes' own: test_objects.py looks at it.
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def test_others_kinds_are_valid(objects):
    for thing in of_kind(objects, *KINDS):
        problems = [f"{error.json_path}: {error.message[:300]}" for error in validator(thing).iter_errors(thing)]
        assert not problems, f"{thing['kind']} {name(thing)}: {problems}"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_made_and_its_faults_are_found(kind):
    """A control: every kind is among what the cases make, and a misspelt or mistyped field is an error."""
    made = [thing for case in ("minimal", "full") for thing in of_kind(render(case), kind)]
    assert made
    for spoil in (lambda spec: spec.update(sellector={}), lambda spec: spec.update({next(iter(spec)): 7})):
        spoilt = copy.deepcopy(made[0])
        spoil(spoilt["spec"])
        assert list(validator(spoilt).iter_errors(spoilt))
