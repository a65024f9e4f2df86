"""values.yaml, values.schema.json and the templates know the same values."""

import functools
import json
import re

import pytest
import yaml

from conftest import CHART, render_text

SOURCE = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(SOURCE)
FULL = yaml.safe_load((CHART / "ci" / "full-values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# A value is looked at on top of a case where it counts, and changed to this where any other would be refused.
CHANGED = {
    "profile": ("dev", "prod"),
    "kafka.sasl.mechanism": ("full", "PLAIN"),
    "auth.hs256.existingSecret": ("dev", "another"),
    "auth.hs256.key": ("dev", "another"),
    "auth.adminAudience": ("minimal", "another"),
    "auth.jwks.url": ("issuer", "https://id.example/keys"),
    "auth.ca.existingSecret": ("full", "another"),
    "auth.ca.key": ("full", "another"),
    "networkPolicy.issuerTo": ("issuer", [{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
    "networkPolicy.issuerPorts": ("issuer", [8443]),
    "keys.activeId": ("full", "k1"),
    "keys.ids": ("full", ["k1", "k2", "k3"]),
    "image.digest": ("minimal", f"sha256:{'1' * 64}"),
    "image.tag": ("minimal", "another"),
    "apiGateway.replicas": ("dev", 2),
    "notifier.replicas": ("dev", 2),
    "notifier.autoscaling.minReplicas": ("minimal", 3),
    "notifier.autoscaling.maxReplicas": ("minimal", 11),
    "notifier.autoscaling.cpuPercent": ("minimal", 61),
    "notifier.autoscaling.memoryPercent": ("minimal", 76),
    "apiGateway.service.type": ("minimal", "LoadBalancer"),
    "notifier.service.type": ("minimal", "LoadBalancer"),
    "config": ("minimal", {"log": {"filter": "debug"}}),
    "internalOnly": ("minimal", False),
    "topics.enabled": ("full", False),
    "extraObjects": ("minimal", [{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x"}}]),
    "retire.schedule": ("full", "1 1 * * *"),
    "retire.closedFor": ("full", "48h"),
    "retention.enabled": ("minimal", True),
    "retention.schedule": ("full", "1 1 * * *"),
    "retention.claimsDays": ("full", 31),
    "retention.couponsDays": ("full", 366),
    "monitoring.podMonitor.interval": ("full", "30s"),
    "kafka.tls.enabled": ("full", False),
    "kafka.allowPlaintext": ("minimal", True),
    "postgres.urlKeys.default": ("dev", "another"),
    "redis.urlKeys.default": ("dev", "another"),
    "retire.tokenKey": ("minimal", "another"),
    "networkPolicy.enabled": ("full", False),
}
# Shown to do something elsewhere, since rules and dashboards may not lie here yet: test_boards.py.
ELSEWHERE = re.compile(r"^monitoring\.(rules|dashboards)\.")
# May be refused instead: that counts as an effect too.
REFUSED = {"internalOnly", "postgres.allowPlaintext", "redis.allowPlaintext", "kafka.tls.enabled", "postgres.tls.enabled", "redis.tls.enabled", "profile"}


def resolve(schema):
    return SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def known(schema, path=()):
    """The schema's leaves: what it knows by name. CPU and memory are Kubernetes' own words."""
    for key, member in resolve(schema)["properties"].items():
        here = (*path, key)
        if resolve(member).get("properties") and key != "resources":
            yield from known(member, here)
        else:
            yield ".".join(here)


LEAVES = [path for path in known(SCHEMA) if path not in ("global", "config.log", "config.ops", "config.kafka", "config.postgres", "config.redis", "config.auth")] + ["config"]


def at(tree, path):
    """What a tree has at a path, or None."""
    return functools.reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, path.split("."), tree)


def nodes(node, path=()):
    """(path, line) of every key of a YAML document."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        here = (*path, key.value)
        yield ".".join(here), key.start_mark.line
        yield from nodes(value, here)


def test_schema_and_values_know_the_same():
    written = {path for path, _ in nodes(yaml.compose(SOURCE))}
    assert set(LEAVES) - written == set(), "in the schema, not in values.yaml"
    groups = {".".join(path.split(".")[:end]) for path in LEAVES for end in range(1, path.count(".") + 1)}
    strange = {path for path in written - groups - set(LEAVES) if not any(path.startswith(f"{leaf}.") for leaf in LEAVES)}
    assert not strange, "in values.yaml, not in the schema"


def test_the_schema_refuses_unknown_keys_everywhere():
    def closed(schema, path):
        if schema.get("properties"):
            assert schema.get("additionalProperties") is False, f"{path} takes anything"
        for key, member in {**schema.get("properties", {}), **schema.get("$defs", {})}.items():
            closed(member, f"{path}.{key}")

    closed(SCHEMA, "values")


def test_every_value_is_documented():
    lines = SOURCE.splitlines()
    documented = {path for path, line in nodes(yaml.compose(SOURCE)) if re.match(r" *# \S", lines[line - 1])}
    assert set(VALUES) | set(LEAVES) == documented & (set(VALUES) | set(LEAVES))


@pytest.mark.parametrize("path", [path for path in LEAVES if not ELSEWHERE.match(path)])
def test_no_value_is_dead(path):
    """Another value gives other objects."""
    case, value = CHANGED.get(path) or ("full", another(path))
    changed = functools.reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)
    try:
        assert render_text(case, values=json.dumps(changed)) != render_text(case)
    except AssertionError as error:
        if path not in REFUSED or "the values are wrong" not in str(error):
            raise


def another(path):
    """A value that differs from the default and from what the full case has, and that the schema takes."""
    schema = resolve(functools.reduce(lambda node, key: resolve(node)["properties"][key], path.split("."), SCHEMA))
    full = at(FULL, path)
    default = at(VALUES, path) if full is None else full
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != default)
    match schema.get("type"):
        case "boolean":
            return not default
        case "integer" | ["integer", "null"]:
            return (default or 1) + 1 if (default or 1) < schema.get("maximum", 10**9) else 1
        case "string":
            return "another/" if path.endswith("Base") else "another"
        case "array":
            item = schema["items"]
            return [4242] if item.get("type") == "integer" else ["another"] if item.get("type") == "string" or "$ref" in item else [{"podSelector": {"matchLabels": {"another": "one"}}}]
        case "object":
            if path.endswith("resources"):
                return {"limits": {"memory": "4242Mi"}}
            if path.endswith(".config"):
                return {"log": {"filter": "trace"}}
            if path.endswith("affinity"):
                return {"nodeAffinity": {}}
            return {"another": "one"}
    raise AssertionError(f"no idea how to change {path}: {schema}")
