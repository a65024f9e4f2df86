"""Chart and programs agree: configuration, secrets, ports, probes, drain, arguments, environment."""

import copy
import json
import os
import pathlib
import re
import subprocess

import pytest
import yaml

from conftest import CASES, CHART, ROOT, name, of_kind, pods, render

BINARIES = pathlib.Path(os.environ["BINARIES"])
SERVICES = ("api-gateway", "stock-consumer", "db-writer", "notifier", "reconciler")
# A public key of RFC 8037, and secrets that look made rather than typed.
JWKS = {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}
MADE = "8Zq4yT0vMhbd1sXo9pKw2LrUeC7nGfJt-Xk"


# A self-signed certificate of nobody and its key: what the programs look at is whether they are that.
TLS = pathlib.Path(__file__).with_name("tls_for_tests_only.pem").read_text()


def secret_value(path, tls):
    """What an operator would have put into the secret that is mounted there; tls where Redis speaks it."""
    if path.startswith("postgres/"):
        return f"postgres://writer:{MADE}@db:5432/firstcome"
    if path.startswith("redis/"):
        return f"redis{'s' if tls else ''}://view:{MADE}@cache:6379/0"
    if path.split("/")[0].endswith(("-tls", "-ca")):
        return TLS
    return json.dumps(JWKS) if path.endswith("jwks.json") else MADE


def on_disk(objects, pod, folder):
    """Lays out what a pod finds mounted, and gives its command line with paths to there."""
    configs = {name(thing): thing["data"] for thing in of_kind(objects, "ConfigMap")}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    speaks_tls_to_redis = "redis-tls/" in json.dumps(volumes)
    [container] = pod["containers"]
    for mount in container.get("volumeMounts", []):
        at = folder / mount["mountPath"].lstrip("/")
        at.mkdir(parents=True)
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            for file, text in configs[volume["configMap"]["name"]].items():
                # The one thing that differs from a pod: its root is a folder here.
                (at / file).write_text(text.replace("/etc/firstcome/secrets", f"{folder}/etc/firstcome/secrets"))
        for source in volume.get("projected", {}).get("sources", []):
            for item in source["secret"]["items"]:
                file = at / item["path"]
                file.parent.mkdir(exist_ok=True, parents=True)
                file.write_text(secret_value(item["path"], speaks_tls_to_redis))
    program = BINARIES / pathlib.Path(container["command"][0]).name
    arguments = [str(folder) + argument if argument.startswith("/etc/") else argument for argument in container.get("args", [])]
    return [program, *arguments]


def run(command, environment=None):
    return subprocess.run(command, capture_output=True, text=True, env=environment or {}, check=False, timeout=60)


def pod_of(objects, component):
    [pod] = [pod for thing, metadata, pod in pods(objects) if metadata["labels"]["app.kubernetes.io/component"] == component and thing["kind"] != "Pod"]
    return pod


@pytest.mark.parametrize("service", SERVICES)
def test_services_take_their_configuration(case, service, tmp_path):
    objects = render(case)
    command = on_disk(objects, pod_of(objects, service), tmp_path)
    checked = run([*command, "--check-config"])
    assert checked.returncode == 0, checked.stderr
    printed = run([*command, "--print-config"]).stdout
    effective = dict(re.findall(r"^(\S+) = (.*?) # .*$", printed, re.M))
    values = yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text())
    assert effective["profile"] == json.dumps(values.get("profile", "prod"))
    # Ports are those that the pod names, on all addresses.
    [container] = pod_of(objects, service)["containers"]
    listens = {section: effective[f"{section}.listen"].strip('"') for section in ("ops", "http", "admin") if f"{section}.listen" in effective}
    assert listens == {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container["ports"]}


@pytest.mark.parametrize("service", SERVICES)
def test_services_refuse_a_key_that_they_do_not_know(service, tmp_path):
    """A control: what the chart renders is really read."""
    objects = copy.deepcopy(render("minimal"))
    for thing in of_kind(objects, "ConfigMap"):
        if "config.json" in thing["data"]:
            config = json.loads(thing["data"]["config.json"])
            config["kafka"]["lingering_ms"] = 1
            thing["data"]["config.json"] = json.dumps(config)
    checked = run([*on_disk(objects, pod_of(objects, service), tmp_path), "--check-config"])
    assert checked.returncode == 2 and "kafka.lingering_ms: is no key" in checked.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_mounted_secret_is_read(case, service, tmp_path):
    """A file that is missing is named: nothing is mounted for nothing."""
    objects = render(case)
    command = on_disk(objects, pod_of(objects, service), tmp_path)
    config = (tmp_path / "etc/firstcome/config/config.json").read_text()
    files = [path for path in (tmp_path / "etc/firstcome/secrets").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert str(file) in config, f"{file.relative_to(tmp_path)} is mounted, and the configuration does not name it"
        held = file.read_text()
        file.unlink()
        checked = run([*command, "--check-config"])
        assert checked.returncode == 2 and str(file) in checked.stderr, checked.stderr
        file.write_text(held)


@pytest.mark.parametrize("service", SERVICES)
def test_with_everything_on_nothing_travels_in_the_open(service, tmp_path):
    """In prod, with TLS to all three, no connection is excused: a URL that would open one is refused."""
    objects = render("full")
    command = on_disk(objects, pod_of(objects, service), tmp_path)
    effective = dict(re.findall(r"^(\S+) = (.*?) # .*$", run([*command, "--print-config"]).stdout, re.M))
    assert effective["kafka.security_protocol"] == '"sasl_ssl"' and effective["postgres.tls.enabled"] == "true"
    excused = {key: value for key, value in effective.items() if key.endswith(".allow_plaintext")}
    stores = {"kafka", "postgres"} | (set() if service == "db-writer" else {"redis"})
    assert {f"{store}.allow_plaintext" for store in stores} <= set(excused) and set(excused.values()) == {"false"}, excused
    for store, (url, key) in {"postgres": ("postgres://w@db/f?sslmode=disable", "postgres.url"), "redis": ("redis://cache", "redis.allow_plaintext")}.items():
        file = tmp_path / "etc/firstcome/secrets" / store / "url"
        if file.exists():
            held = file.read_text()
            file.write_text(url)
            refused = run([*command, "--check-config"])
            assert refused.returncode == 2 and f"{key}: " in refused.stderr, refused.stderr
            file.write_text(held)


def test_services_agree_about_the_log(case):
    """Whoever counts other partitions or reads other topics than the job made would stand aside from the line."""
    seen = {}
    for thing in of_kind(render(case), "ConfigMap"):
        for file, text in thing["data"].items():
            if file.endswith(".json") and "kafka" in (config := json.loads(text)):
                keys = ("bootstrap_servers", "topic_prefix", "group_prefix", "partitions", "replication_factor", "min_insync_replicas", "security_protocol")
                seen[f"{name(thing)}/{file}"] = {key: config["kafka"][key] for key in keys}
    assert len(seen) == 8, "five services, the jobs of topics and retention, and the operator's pod"
    assert all(topics == next(iter(seen.values())) for topics in seen.values()), seen


def test_drain_fits_into_grace():
    """The chart's defaults are the programs' own, and what OPERATE.md's table promises."""
    table = {
        "api-gateway": (5, 10, 30), "stock-consumer": (0, 15, 30), "db-writer": (0, 15, 30), "notifier": (5, 10, 30), "reconciler": (0, 15, 30),
    }
    for thing in of_kind(render("minimal"), "Deployment"):
        service = thing["metadata"]["labels"]["app.kubernetes.io/component"]
        pod = thing["spec"]["template"]["spec"]
        [container] = pod["containers"]
        before_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        [config] = [each for each in of_kind(render("minimal"), "ConfigMap") if name(each) == name(thing)]
        drain = json.loads(config["data"]["config.json"])["ops"]["drain_ms_max"]
        assert (before_stop, drain // 1000, pod["terminationGracePeriodSeconds"]) == table[service], service
        assert before_stop * 1000 + drain < pod["terminationGracePeriodSeconds"] * 1000


@pytest.mark.parametrize("service", ["api-gateway", "stock-consumer", "db-writer", "notifier"])
def test_defaults_are_the_programs_own(service, tmp_path):
    """Where the chart repeats a default of the services, it is the same one."""
    objects = render("minimal")
    command = on_disk(objects, pod_of(objects, service), tmp_path)
    path = tmp_path / "etc/firstcome/config/config.json"
    config = json.loads(path.read_text())
    rendered = dict(re.findall(r"^(\S+) = (.*?) # .*$", run([*command, "--print-config"]).stdout, re.M))
    for section, key in (("ops", "drain_ms_max"), ("ops", "listen"), ("http", "listen"), ("admin", "listen"), ("kafka", "partitions"), ("auth", "leeway_s"), ("auth", "issuer"), ("auth", "audience"), ("auth", "admin")):
        config.get(section, {}).pop(key, None)
    path.write_text(json.dumps(config))
    own = dict(re.findall(r"^(\S+) = (.*?) # .*$", run([*command, "--print-config"]).stdout, re.M))
    assert len(own) > 30 and own == rendered


def test_probes_ask_what_the_ops_listener_answers(case):
    routes = set(re.findall(r'\.route\("(/[a-z]+)"', (ROOT / "crates/service-runtime/src/ops_server.rs").read_text()))
    expected = {"startupProbe": ("/startupz", 5, 60), "livenessProbe": ("/livez", 10, 3), "readinessProbe": ("/readyz", 5, 2)}
    for thing in of_kind(render(case), "Deployment"):
        [container] = thing["spec"]["template"]["spec"]["containers"]
        for probe, (path, period, failures) in expected.items():
            found = container[probe]
            assert (found["httpGet"]["path"], found["periodSeconds"], found["failureThreshold"]) == (path, period, failures), name(thing)
            assert path in routes
    for monitor in of_kind(render(case), "PodMonitor"):
        assert all(endpoint["path"] in routes for endpoint in monitor["spec"]["podMetricsEndpoints"])


def send_kafka_nowhere(config):
    """Puts brokers that are not there into a configuration; whoever reads it finds that out soon."""
    config["kafka"] |= {"bootstrap_servers": "127.0.0.1:1", "request_timeout_ms": 500, "security_protocol": "plaintext", "allow_plaintext": True}
    for key in ("sasl_mechanism", "sasl_username", "sasl_password_file", "ssl_ca_file", "ssl_certificate_file", "ssl_key_file"):
        config["kafka"].pop(key, None)


@pytest.mark.parametrize("job", ["topics", "migrate"])
def test_jobs_take_their_configuration(case, job, tmp_path):
    """They get as far as their server, which is not there: exit code 1. A wrong configuration would be 2."""
    objects = render(case)
    command = on_disk(objects, pod_of(objects, job), tmp_path)
    file = tmp_path / "etc/firstcome/config" / f"{job}.json"
    config = json.loads(file.read_text())
    if job == "topics":
        send_kafka_nowhere(config)
    else:
        (tmp_path / "etc/firstcome/secrets/postgres/url").write_text(f"postgres://writer:{MADE}@127.0.0.1:1/firstcome")
    file.write_text(json.dumps(config))
    tried = run(command)
    assert tried.returncode == 1, tried.stderr
    config["another"] = {"key": 1}
    file.write_text(json.dumps(config))
    refused = run(command)
    assert refused.returncode == 2 and "another.key" in refused.stderr, refused.stderr


# What runbooks ask of couponctl, by what each needs: Kafka, PostgreSQL, Redis and the keys.
OPERATORS = [["topics", "check"], ["migrate"], ["redemptions", "status"], ["audit"], ["dlq", "list"], ["dlq", "redrive", "0:1", "--reason", "mended"], ["dump", "--out", "-"]]


@pytest.mark.parametrize("words", OPERATORS, ids=" ".join)
def test_the_operators_pod_can_do_what_runbooks_ask(case, words, tmp_path):
    """Whoever execs into it gets as far as the servers, which are not there."""
    objects = render(case)
    pod = pod_of(objects, "operator")
    [program, idle, *_] = on_disk(objects, pod, tmp_path)
    assert idle == "idle" and "/tmp" in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    [path] = [variable["value"] for variable in pod["containers"][0]["env"] if variable["name"] == "COUPONCTL_CONFIG"]
    file = tmp_path / path.lstrip("/")
    config = json.loads(file.read_text())
    send_kafka_nowhere(config)
    file.write_text(json.dumps(config))
    secrets = tmp_path / "etc/firstcome/secrets"
    (secrets / "postgres/url").write_text(f"postgres://owner:{MADE}@127.0.0.1:1/firstcome")
    (secrets / "redis/url").write_text((secrets / "redis/url").read_text().replace("cache:6379", "127.0.0.1:1"))
    tried = run([program, *words], {"COUPONCTL_CONFIG": str(file)})
    assert tried.returncode == 1, tried.stderr
    # Asked for in the middle of a redrive, and of an audit.
    held = config["keys"]["secret_files"]
    assert held and all(pathlib.Path(file).read_text() == MADE for file in held.values())


def test_jobs_that_talk_to_the_api(case):
    """They get as far as the API, which is not there; arguments and environment are couponctl's own."""
    known = set(re.findall(r"\[env: (\w+)", run([BINARIES / "couponctl", "--help"]).stdout))
    assert {"ADMIN_URL", "ADMIN_TOKEN"} <= known
    tried = 0
    for thing, _, pod in pods(render(case)):
        [container] = pod["containers"]
        variables = {variable["name"]: variable.get("value", MADE) for variable in container.get("env", [])}
        assert set(variables) <= known, name(thing)
        if not variables:
            continue
        # Operators exec into a pod that does nothing.
        arguments = ["coupon", "list"] if container["args"][0] == "idle" else container["args"]
        variables.pop("COUPONCTL_CONFIG", None)
        nowhere = {key: "http://127.0.0.1:1" if key.endswith("_URL") else value for key, value in variables.items()}
        if "JWT_KEY_FILE" in nowhere:
            [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "signing"]
            assert nowhere["JWT_KEY_FILE"] == f"{mount['mountPath']}/private.pem"
            nowhere["JWT_KEY_FILE"] = ROOT / "crates/e2e-tests/tests/e2e/signed_tokens_key_for_tests_only.pem"
        done = run([BINARIES / "couponctl", *arguments], nowhere)
        assert done.returncode == 1, f"{name(thing)}: {done.stderr}"
        without = {key: value for key, value in nowhere.items() if key not in ("ADMIN_TOKEN", "JWT_SECRET", "JWT_KEY_FILE")}
        assert run([BINARIES / "couponctl", *arguments], without).returncode == 2, "a control"
        tried += 1
    assert tried == (2 if case in ("minimal", "issuer") else 3), "retire, the operator's pod, and smoke where tokens can be made"


def test_every_case_was_tried():
    assert {"minimal", "issuer", "dev", "full"} == set(CASES)
