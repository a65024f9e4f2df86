"""Firstcome's chart on a real Kubernetes: installed, claimed by crowds, upgraded, rolled back, drained and scaled in the middle of them, and audited after each.

Started by run.sh. Each step says in a line what was seen, and fails with what was seen instead. A step called "control" breaks something on purpose: it fails
where nobody notices. Usage: check.py CACHE LOCAL_STACK HELM LOG [STEP…]; steps by the beginnings of their names, all of them where none is named.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse

from prober import Prober

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE, LOCAL_STACK, HELM, LOG = (pathlib.Path(argument) for argument in sys.argv[1:5])
WANTED = sys.argv[5:]
STATE = CACHE / "state"
KUBECTL = CACHE / "bin" / "kubectl"
CHART = ROOT / "helm" / "firstcome"
ORACLE = ROOT / "crates" / "couponctl" / "oracle" / "oracle.py"
NAMESPACE, RELEASE = "coupons", "firstcome"
HOST, NODE_0 = "10.244.255.1", "10.244.255.2"
SERVICES = ("api-gateway", "stock-consumer", "db-writer", "notifier", "reconciler")
PARTITIONS = 4

# The crowd of the first two rounds, and the one that lives through what is done to the cluster.
CROWD, QUANTITY, WITHIN_MS = 10_000, 5_000, 8_000
STEADY, STEADY_S = 6_000, 60
# New connections per second, beside a crowd and where they are all that matters.
PROBES_PER_S, CONTROL_PROBES_PER_S = 40, 150
# A crowd behind an ingress shares its connections; one thread is enough to play it: the services need the cores.
CONNECTIONS_MAX = 1_500
# 502s of nginx that a step may have: a kept connection that a gateway closes in the very moment in which nginx sends a request on it. The user presses again, as
# loadgen's contract has it. One in twenty-six steps since listeners say farewell; many are a fault.
CUT_CONNECTIONS_MAX = 2
# What is started and not waited for dies with this process, however that ends.
MORTAL = ["setpriv", "--pdeathsig", "KILL"]
# How long a roll-out may take, and a store may be behind at rest.
ROLLOUT = "300s"
REST_S = 90


class Wrong(Exception):
    """What was seen is not what must be."""


def check(holds, what):
    if not holds:
        raise Wrong(what)


def run(*command, stdin=None, environment=None, codes=(0,), timeout=600):
    """A command's output; its exit code has to be one of these."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, env=environment, timeout=timeout, check=False
    )
    if done.returncode not in codes:
        raise Wrong(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def kubectl(*arguments, **how):
    return run(KUBECTL, "--kubeconfig", STATE / "admin.kubeconfig", *arguments, **how)


def get(kind, *arguments, namespace=NAMESPACE):
    return json.loads(kubectl("-n", namespace, "get", kind, "-o", "json", *arguments).stdout)


def apply(*objects):
    kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(thing) for thing in objects))


def helm(*arguments, **how):
    environment = {**os.environ, "KUBECONFIG": str(STATE / "admin.kubeconfig"), "HELM_CACHE_HOME": str(STATE / "helm")}
    return run(HELM, "-n", NAMESPACE, *arguments, environment=environment, **how)


def seconds(since):
    return f"{time.monotonic() - since:.0f} s"


class Exits:
    """Listens to every pod of the release, and keeps with which code each container ended."""

    def __init__(self):
        self.seen = {}
        self.process = subprocess.Popen(
            [*MORTAL, KUBECTL, "--kubeconfig", STATE / "admin.kubeconfig", "-n", NAMESPACE, "get", "pods", "--watch", "-o", "json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        decoder, text = json.JSONDecoder(), ""
        for line in self.process.stdout:
            text += line
            if line.rstrip() == "}":
                with contextlib.suppress(ValueError):
                    self._take(decoder.decode(text))
                    text = ""

    def _take(self, pod):
        for container in pod.get("status", {}).get("containerStatuses", []):
            for state in (container["state"], container.get("lastState", {})):
                # A container that never ran has ended, too, in the kubelet's words.
                if (ended := state.get("terminated")) and ended.get("startedAt"):
                    name = pod["metadata"]["name"]
                    self.seen[name, container["restartCount"] if state is container["state"] else container["restartCount"] - 1] = (
                        ended["exitCode"], ended.get("reason", "")
                    )

    def since(self, before):
        """How those containers ended that have ended since: name → (code, reason)."""
        return {f"{name}#{restart}": how for (name, restart), how in list(self.seen.items()) if (name, restart) not in before}


class World:
    """What steps leave for one another."""

    def __init__(self):
        self.environment, self.urls = {}, {}
        self.edge, self.gateway, self.notifier = f"http://{NODE_0}:8080", "", ""
        self.overrides = STATE / "values.json"
        # Fewest claims that the log must hold: users were told so.
        self.accepted = 0
        self.exits = None

    def save(self):
        """For a later run of single steps, on a cluster that was left up."""
        kept = {name: getattr(self, name) for name in ("environment", "urls", "gateway", "notifier", "accepted")}
        (STATE / "world.json").write_text(json.dumps(kept))

    def load(self):
        for name, value in json.loads((STATE / "world.json").read_text()).items():
            setattr(self, name, value)
        self.exits = Exits()

    def tool_environment(self):
        return {**{key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}, **self.environment}

    def couponctl(self, *arguments, codes=(0,)):
        return run(CACHE / "programs" / "couponctl", *arguments, environment=self.tool_environment(), codes=codes)

    def publish(self, quantity, opens_in_s=0):
        """A coupon that is on offer."""
        opens_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + opens_in_s))
        command = ["coupon", "create", "--name", "Fried chicken", "--quantity", quantity, "--opens-at", opens_at, "--publish", "--output", "json"]
        # In a control the operator's connection may be one of those that fail.
        for codes in ((0, 1), (0, 1), (0,)):
            answer = self.couponctl(*command, codes=codes)
            if answer.returncode == 0:
                return json.loads(answer.stdout)["coupon_id"]

    def crowd(self, coupon, users, within_ms, *more, api=None, notifier=None):
        """A crowd, started: its process, and the file that its report will be in."""
        report = STATE / f"crowd-{coupon[-8:]}.json"
        command = [
            *MORTAL, CACHE / "programs" / "loadgen", coupon, "--users", users, "--within-ms", within_ms, "--api-url", api or self.edge,
            "--notifier-url", notifier or self.edge, "--connections-max", CONNECTIONS_MAX, "--threads", 1, "--json", report, *more,
        ]
        process = subprocess.Popen(
            [str(part) for part in command], env=self.tool_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return process, report

    def heard(self, crowd):
        """What a crowd came to; it has to be clean."""
        process, report = crowd
        said, _ = process.communicate(timeout=300)
        check(process.returncode == 0, f"the crowd is not content (exit code {process.returncode}):\n{said[-4000:]}")
        report = json.loads(report.read_text())
        self.accepted += report["granted"]
        return report

    def audit(self):
        """At rest, log and stores and a program of other people's making all say the same."""
        began = time.monotonic()
        while True:
            verdict = self.couponctl("audit", "--quiet", codes=(0, 1, 5))
            if verdict.returncode == 0:
                break
            check(time.monotonic() - began < REST_S, f"the audit, {REST_S} s after the last claim:\n{verdict.stdout[-4000:]}{verdict.stderr[-2000:]}")
            time.sleep(1)
        dump = STATE / "dump"
        run("rm", "-rf", dump)
        self.couponctl("dump", "--out", dump)
        # What users heard is in the log: nobody who was told something may be missing there.
        verdict = run(sys.executable, ORACLE, dump, "--quiet", "--expect-accepted", f"{self.accepted}..1000000000", "--json", codes=(0, 1, 2))
        check(verdict.returncode == 0, f"the oracle: {verdict.stdout[-4000:]}{verdict.stderr[-2000:]}")
        ledger = json.loads(verdict.stdout)["ledger"]
        return f"audit and oracle clean after {seconds(began)}: {', '.join(f'{state} {count}' for state, count in ledger.items())}"

    def upgrade(self, *more, codes=(0,), timeout=ROLLOUT):
        arguments = ["upgrade", RELEASE, CHART, "-f", HERE / "values.yaml", "-f", self.overrides, "--wait", "--timeout", timeout, *more]
        return helm(*arguments, codes=codes)


WORLD = World()
STEPS = []


def step(title):
    def take(function):
        STEPS.append((title, function))
        return function

    return take


def pods(*components):
    """Pods of these services that are not on their way out."""
    wanted = components or SERVICES
    return [
        pod
        for pod in get("pods")["items"]
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") in wanted and "deletionTimestamp" not in pod["metadata"]
    ]


def container_pid(pod):
    """The process of a pod's container, as its node counts."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    tasks = run(HERE / "enter.sh", pod["spec"]["nodeName"].removeprefix("node-"), "ctr", "-n", "k8s.io", "tasks", "ls").stdout.splitlines()
    return next(line.split()[1] for line in tasks if line.startswith(container))


def is_ready(pod):
    return any(it["type"] == "Ready" and it["status"] == "True" for it in pod["status"].get("conditions", []))


def settle(component, count):
    """Waits until nobody of a service is on the way out, and the nodes have heard of it."""
    of_service = lambda: [pod for pod in get("pods")["items"] if pod["metadata"]["labels"].get("app.kubernetes.io/component") == component]
    wait_until(lambda: len(of_service()) == count, f"{count} of {component}, and nobody else")
    time.sleep(2)


def flush_connections():
    """Forgets the host's connections to pods that are gone: a port that is used again would meet them. nginx's own, which it keeps open, stay."""
    run(HERE / "enter.sh", 0, "conntrack", "--delete", "--orig-src", HOST, codes=(0, 1))


def wait_until(holds, what, within_s=60):
    deadline = time.monotonic() + within_s
    while not holds():
        check(time.monotonic() < deadline, f"not within {within_s} s: {what}")
        time.sleep(0.5)


def told(report):
    """A crowd's report in a line."""
    pressed, followed, latencies = report["pressed"], report["followed"], report["latencies"]
    busy = ", ".join(f"{code} {count}" for code, count in pressed["busy"].items()) or "0"
    return (
        f"{report['users']} users, {pressed['accepted']} of {pressed['sent']} presses 202, {report['granted']} granted, {report['unresolved']} untold, "
        f"lost answers {pressed['lost']}, 408/429/5xx {busy}, {followed['streams']} streams ({followed['reconnects']} reconnects, "
        f"{latencies['told_by_stream']['count']} told by SSE), press to answer p99 {latencies['press_to_answer']['p99_ms']:.0f} ms"
    )


def probed(probe):
    failures = ", ".join(f"{kind} {count}" for kind, count in probe.failures.items()) or "none"
    others = "".join(f", {status} {count}" for status, count in probe.answers.items() if status != 202)
    return f"{probe.sent} presses on connections of their own: {len(probe.accepted)} 202 and as many outcomes{others}, failures {failures}"


def under_load(action):
    """Does something to the cluster in the middle of a crowd (through nginx) and of new connections (NodePort). Nobody may notice."""
    flush_connections()
    coupon, other = WORLD.publish(STEADY // 2), WORLD.publish(1_000_000)
    before = dict(WORLD.exits.seen)
    crowd = WORLD.crowd(coupon, STEADY, STEADY_S * 1000, "--expect-sold-out")
    probe = Prober(WORLD.environment, WORLD.gateway, WORLD.notifier, other, PROBES_PER_S)
    try:
        wait_until(lambda: probe.sent > 2 * PROBES_PER_S, "load")
        began = time.monotonic()
        seen = action()
        took = seconds(began)
        report = WORLD.heard(crowd)
    finally:
        crowd[0].kill()
        probe.stop()
    WORLD.accepted += len(probe.accepted)
    ended = WORLD.exits.since(before)
    summary = f"{seen} in {took}\n      crowd: {told(report)}\n      probe: {probed(probe)}\n      containers ended: {len(ended)}, exit codes {sorted({code for code, _ in ended.values()})}"
    pressed = report["pressed"]
    check(not probe.lost, f"202, but no outcome: {probe.lost[:3]} and others\n      {summary}")
    check(not probe.failures, f"requests failed, at s {probe.when[:20]}\n      {summary}")
    check(pressed["lost"] == 0 and pressed["wrong"] == 0, f"answers were lost or wrong\n      {summary}")
    # An answer without a code is nginx's own.
    check(pressed["busy"].get("no_code", 0) <= CUT_CONNECTIONS_MAX, f"nginx found nobody\n      {summary}\n{edge_errors()}")
    check(all(code == 0 for code, _ in ended.values()), f"containers did not end by themselves: {ended}\n      {summary}")
    return f"{summary}\n      {WORLD.audit()}"


def edge_errors():
    return kubectl("-n", "edge", "logs", "deployment/nginx", "--tail", "20").stdout


@step("cluster: two nodes, DNS")
def start_cluster():
    began = time.monotonic()
    run(HERE / "up.sh", 2)
    ready = seconds(began)
    kubectl("apply", "-f", HERE / "manifests" / "coredns.yaml")
    kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout", "60s")
    nodes = get("nodes")["items"]
    facts = nodes[0]["status"]["nodeInfo"]
    return f"{len(nodes)} nodes ready after {ready}: kubelet {facts['kubeletVersion']}, {facts['containerRuntimeVersion']}, kernel {facts['kernelVersion']}"


@step("stores: Kafka, PostgreSQL and Redis on the host, services of the cluster")
def start_stores():
    folder = CACHE / "stores"
    run(LOCAL_STACK, "up", "--dir", folder, "--no-services", "--no-build", "--no-sync", "--bind", HOST, "--partitions", PARTITIONS)
    lines = run(LOCAL_STACK, "env", "--dir", folder).stdout.splitlines()
    WORLD.environment = {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}
    objects = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stores"}}]
    for name, variable in (("postgres", "DATABASE_URL"), ("redis", "REDIS_URL"), ("kafka", "KAFKA_BOOTSTRAP")):
        url = WORLD.environment[variable]
        port = int(url.partition(f"{HOST}:")[2].partition("/")[0])
        WORLD.urls[name] = url.replace(f"{HOST}:{port}", f"{name}.stores:{port}")
        objects += [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "stores"}, "spec": {"ports": [{"port": port}]}},
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": f"{name}-host", "namespace": "stores", "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [HOST]}], "ports": [{"port": port}],
            },
        ]
    apply(*objects)
    return f"all three answer on {HOST}; pods know them by name"


def logged_in(store, role):
    """The URL of a store for one of the services' roles; local-stack gives all of them the administrator's password, or one that nobody asks for."""
    url = urllib.parse.urlsplit(WORLD.urls[store])
    return url._replace(netloc=f"{role}:{url.password or 'unasked'}@{url.hostname}:{url.port}").geturl()


@step("namespace: the restricted Pod Security Standard is enforced")
def make_namespace():
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    secret = lambda name, **data: {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data
    }
    environment = WORLD.environment
    apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}},
        secret("firstcome-postgres", **{role: logged_in("postgres", f"firstcome_{role}") for role in ("gateway", "reader", "writer", "migrator")}),
        secret("firstcome-redis", **{user: logged_in("redis", user) for user in ("reader", "writer", "auditor")}),
        secret("firstcome-auth", secret=environment["JWT_SECRET"]),
        secret("firstcome-keys", **{environment["KEY_ID"]: environment["KEY_SECRET"]}),
    )
    wait_until(lambda: get("serviceaccounts")["items"], "a service account")
    # The control: a pod that is not restricted.
    refused = kubectl("-n", NAMESPACE, "run", "root", "--image", "localhost/nginx:dev", "--dry-run=server", codes=(1,))
    check("violates PodSecurity" in refused.stderr, refused.stderr)
    return "a pod as root is refused: " + refused.stderr.partition("violates ")[2].partition(" (")[0]


@step("install: helm install --wait")
def install():
    environment = WORLD.environment
    WORLD.overrides.write_text(json.dumps({
        "kafka": {
            "bootstrapServers": WORLD.urls["kafka"], "partitions": PARTITIONS,
            "topicPrefix": environment["TOPIC_PREFIX"], "groupPrefix": environment["GROUP_PREFIX"],
        },
        "redis": {"keyPrefix": environment["REDIS_PREFIX"]},
        "auth": {"issuer": environment["JWT_ISSUER"], "audience": environment["JWT_AUDIENCE"], "adminAudience": environment["ADMIN_JWT_AUDIENCE"]},
        "keys": {"ids": [environment["KEY_ID"]], "activeId": environment["KEY_ID"]},
    }))
    WORLD.exits = Exits()
    began = time.monotonic()
    helm("install", RELEASE, CHART, "-f", HERE / "values.yaml", "-f", WORLD.overrides, "--wait", "--timeout", ROLLOUT)
    took = seconds(began)
    jobs = {job["metadata"]["name"].split("-")[1]: job["status"].get("succeeded", 0) for job in get("jobs")["items"]}
    wait_until(lambda: all(job["status"].get("succeeded") for job in get("jobs")["items"]), "the jobs are done")
    ready = {name: sum(is_ready(pod) for pod in pods(name)) for name in SERVICES}
    check(ready == {"api-gateway": 3, "stock-consumer": 2, "db-writer": 2, "notifier": 2, "reconciler": 1}, f"ready: {ready}")
    restarts = sum(container["restartCount"] for pod in pods() for container in pod["status"]["containerStatuses"])
    where = {name: sorted({pod["spec"]["nodeName"] for pod in pods(name)}) for name in SERVICES[:4]}
    check(all(nodes == ["node-0", "node-1"] for nodes in where.values()), f"not spread over both nodes: {where}")
    ports = {
        service["metadata"]["name"]: service["spec"] for service in get("services")["items"]
    }
    WORLD.gateway = f"http://{NODE_0}:{ports['firstcome-api-gateway']['ports'][0]['nodePort']}"
    WORLD.notifier = f"http://{NODE_0}:{ports['firstcome-notifier']['ports'][0]['nodePort']}"
    WORLD.environment |= {
        "API_URL": WORLD.gateway, "NOTIFIER_URL": WORLD.notifier, "ADMIN_URL": f"http://{ports['firstcome-api-gateway-admin']['clusterIP']}"
    }
    return f"{took}: jobs {', '.join(sorted(jobs))} done, ready {', '.join(f'{name} {count}' for name, count in ready.items())}, on both nodes, {restarts} restarts"


@step("restricted: what the containers really are")
def really_restricted():
    pod = pods("api-gateway")[0]
    node, pid = pod["spec"]["nodeName"].removeprefix("node-"), container_pid(pod)
    status = run(HERE / "enter.sh", node, "cat", f"/proc/{pid}/status").stdout
    facts = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    check(facts["Uid"] == ["65532"] * 4, f"uid {facts['Uid']}")
    check(int(facts["CapEff"][0], 16) == 0 and int(facts["CapBnd"][0], 16) == 0, f"capabilities {facts['CapEff']} {facts['CapBnd']}")
    check(facts["Seccomp"] == ["2"] and facts["NoNewPrivs"] == ["1"], f"seccomp {facts['Seccomp']}, no_new_privs {facts['NoNewPrivs']}")
    root = next(line for line in run(HERE / "enter.sh", node, "cat", f"/proc/{pid}/mounts").stdout.splitlines() if line.split()[1] == "/")
    check("ro" in root.split()[3].split(","), root)
    limit = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    cgroup = next(line for line in run(HERE / "enter.sh", node, "cat", f"/proc/{pid}/cgroup").stdout.splitlines() if ":memory:" in line or line.startswith("0::/"))
    file = pathlib.Path("/sys/fs/cgroup/memory" + cgroup.split(":")[2] + "/memory.limit_in_bytes")
    if file.exists():
        check(int(file.read_text()) == 1 << 30, f"memory limit {file.read_text()}")
    return f"uid 65532, no capabilities, no new privileges, seccomp filter, read-only root, memory limit {limit} in its cgroup"


@step("helm test")
def helm_test():
    began = time.monotonic()
    helm("test", RELEASE, "--timeout", "120s")
    return f"couponctl smoke, as a pod, in {seconds(began)}"


@step("operator's pod: the runbooks' commands, by kubectl exec")
def operate():
    began = time.monotonic()
    kubectl("-n", NAMESPACE, "create", "job", "operator", "--from=cronjob/firstcome-operator")
    kubectl("-n", NAMESPACE, "wait", "pod", "--selector=job-name=operator", "--for=condition=Ready", "--timeout=60s")
    couponctl = lambda *words: kubectl("-n", NAMESPACE, "exec", "job/operator", "--", "couponctl", *words).stdout
    commands = [["topics", "check"], ["migrate"], ["redemptions", "status"], ["audit"], ["dlq", "list"], ["coupon", "list"], ["smoke"]]
    for command in commands:
        couponctl(*command)
    evidence = tarfile.open(fileobj=io.BytesIO(couponctl("dump", "--out", "-").encode())).getnames()
    check({"dump/claims.jsonl", "dump/redis.jsonl", "dump/meta.json"} <= set(evidence), evidence)
    kubectl("-n", NAMESPACE, "delete", "job", "operator", "--timeout=60s")
    return f"{', '.join(' '.join(command) for command in commands)}, dump ({len(evidence) - 1} files) in {seconds(began)}"


@step("nginx: the users' way in, with deploy/nginx/sse.conf")
def start_nginx():
    made = kubectl("-n", "edge", "create", "configmap", "sse", f"--from-file={ROOT / 'deploy' / 'nginx' / 'sse.conf'}", "--dry-run=client", "-o", "json").stdout
    kubectl("apply", "-f", "-", stdin=made)
    kubectl("apply", "-f", HERE / "manifests" / "nginx.yaml")
    kubectl("-n", "edge", "rollout", "status", "deployment/nginx", "--timeout", "60s")
    hidden = run("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", f"{WORLD.edge}/admin/v1/coupons").stdout
    check(hidden == "404", f"/admin/v1 answers {hidden}")
    return "hostPort 8080 of node-0; /admin/v1 is 404 there"


@step("crowd through nginx")
def crowd_through_nginx():
    # The first thousands warm the JVM under Kafka.
    WORLD.heard(WORLD.crowd(WORLD.publish(3_000), 3_000, 3_000))
    report = WORLD.heard(WORLD.crowd(WORLD.publish(QUANTITY, 6), CROWD, WITHIN_MS, "--before-opening-ms", 1000, "--expect-sold-out"))
    check(report["latencies"]["told_by_stream"]["count"] > CROWD / 10, f"hardly anybody was told by SSE: {told(report)}")
    check(report["pressed"]["lost"] == 0, f"answers were lost: {told(report)}")
    return f"{told(report)}\n      {WORLD.audit()}"


@step("crowd through NodePort")
def crowd_through_node_port():
    crowd = WORLD.crowd(WORLD.publish(QUANTITY, 6), CROWD, WITHIN_MS, "--before-opening-ms", 1000, "--expect-sold-out", api=WORLD.gateway, notifier=WORLD.notifier)
    report = WORLD.heard(crowd)
    check(report["pressed"]["lost"] == 0, f"answers were lost: {told(report)}")
    return f"{told(report)}\n      {WORLD.audit()}"


def set_log_filter(name):
    """A change of configuration, which replaces every pod of every service."""
    before = {pod["metadata"]["name"] for pod in pods()}
    WORLD.upgrade("--set", f"config.log.filter={name}")
    left = before & {pod["metadata"]["name"] for pod in pods()}
    check(not left, f"not replaced: {left}")
    return f"{len(before)} pods replaced"


@step("upgrade in the middle of a crowd")
def upgrade_under_load():
    return under_load(lambda: set_log_filter("warn"))


@step("rollback in the middle of a crowd")
def rollback_under_load():
    def back():
        before = {pod["metadata"]["name"] for pod in pods()}
        helm("rollback", RELEASE, "--wait", "--timeout", ROLLOUT)
        left = before & {pod["metadata"]["name"] for pod in pods()}
        check(not left, f"not replaced: {left}")
        return f"{len(before)} pods replaced"

    return under_load(back)


@step("gateway scaled up and down in the middle of a crowd")
def scale_under_load():
    def scale():
        for count in (5, 2, 3):
            WORLD.upgrade("--set", f"apiGateway.replicas={count}")
            wait_until(lambda: len([pod for pod in pods("api-gateway") if is_ready(pod)]) == count, f"{count} gateways")
        return "3 → 5 → 2 → 3"

    return under_load(scale)


@step("drain of one of two nodes in the middle of a crowd")
def drain_under_load():
    def drain():
        moved = [pod for pod in pods() if pod["spec"]["nodeName"] == "node-1"]
        said = kubectl("drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout", "240s")
        refused = (said.stdout + said.stderr).count("would violate the pod's disruption budget")
        wait_until(lambda: len(pods()) == 10 and all(is_ready(pod) for pod in pods()), "everything runs on node-0", 120)
        check(not [pod for pod in pods() if pod["spec"]["nodeName"] == "node-1"], "pods on a drained node")
        WORLD.refused_evictions = refused
        return f"{len(moved)} pods moved, {refused} evictions put off by a budget"

    try:
        return under_load(drain)
    finally:
        kubectl("uncordon", "node-1")


@step("budget: an eviction beyond it is refused")
def budget_refuses():
    kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/firstcome-api-gateway")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/firstcome-api-gateway", "--timeout", ROLLOUT)
    first, second = [pod["metadata"]["name"] for pod in pods("api-gateway")][:2]

    def evict(name, codes):
        body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}})
        return kubectl("create", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", "-f", "-", stdin=body, codes=codes)

    evict(first, (0,))
    refused = evict(second, (1,)).stderr
    check("disruption budget" in refused, refused)
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/firstcome-api-gateway", "--timeout", ROLLOUT)
    return "the second of two at once: " + refused.strip().removeprefix("Error from server (TooManyRequests): ")


@step("control: a 202 without an outcome is seen, and is not lost")
def accepted_but_not_decided():
    # The log itself answers a publication: first this.
    coupon = WORLD.publish(1_000_000)
    # Past the chart, which wants one at least.
    kubectl("-n", NAMESPACE, "scale", "deployment/firstcome-stock-consumer", "--replicas=0")
    settle("stock-consumer", 0)
    probe = Prober(WORLD.environment, WORLD.gateway, WORLD.notifier, coupon, PROBES_PER_S)
    time.sleep(3)
    probe.stop(within_s=2)
    undecided = len(probe.lost)
    check(undecided == len(probe.accepted) > 0, f"nobody decides, yet: {probed(probe)}, {undecided} without an outcome")
    kubectl("-n", NAMESPACE, "scale", "deployment/firstcome-stock-consumer", "--replicas=2")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/firstcome-stock-consumer", "--timeout", ROLLOUT)
    probe.ask_for_outcomes()
    check(not probe.lost and not probe.failures, f"after the consumers came back: {probe.lost[:3]}, {probed(probe)}")
    WORLD.accepted += len(probe.accepted)
    return f"{undecided} of {len(probe.accepted)} while nobody decides, 0 once the consumers are back\n      {WORLD.audit()}"


@step("control: an upgrade that cannot come up hurts nobody, and is seen")
def bad_upgrade_under_load():
    def fail():
        failed = WORLD.upgrade("--set", "image.tag=there-is-none", codes=(1,), timeout="20s")
        stuck = {
            container["state"]["waiting"]["reason"]
            for pod in pods()
            for container in pod["status"].get("containerStatuses", [])
            if "waiting" in container["state"]
        }
        check("ErrImageNeverPull" in stuck, f"waiting: {stuck}; {failed.stderr[-500:]}")
        helm("rollback", RELEASE, "--wait", "--timeout", ROLLOUT)
        return f"helm says no ({', '.join(sorted(stuck))}), rolled back"

    return under_load(fail)


@step("control: a wrong secret is seen")
def wrong_secret():
    bad = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong", "namespace": NAMESPACE}}
    apply(bad | {"stringData": {"url": WORLD.urls["postgres"].replace("@", "-wrong@", 1)}})
    WORLD.upgrade("--set", "postgres.existingSecret=wrong", codes=(1,), timeout="30s")
    waiting = sorted({pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods() if not is_ready(pod)})
    check("db-writer" in waiting, f"db-writer is ready with a wrong password; not ready: {waiting}")
    ready = {name: sum(is_ready(pod) for pod in pods(name)) for name in SERVICES[:4]}
    # Claims need the log alone; and of the writers one stays, for the budget of a roll-out is one.
    check(ready["api-gateway"] == 3 and ready["notifier"] == 2 and ready["db-writer"] == 1, f"ready: {ready}")
    helm("rollback", RELEASE, "--wait", "--timeout", ROLLOUT)
    return f"helm says no; not ready: {', '.join(waiting)}; ready: {ready}; rolled back"


def probe_an_upgrade(turn, *values):
    """An upgrade of the gateways, met by many new connections."""
    flush_connections()
    probe = Prober(WORLD.environment, WORLD.gateway, WORLD.notifier, WORLD.publish(1_000_000), CONTROL_PROBES_PER_S)
    wait_until(lambda: probe.sent > CONTROL_PROBES_PER_S, "load")
    WORLD.upgrade(*values, "--set-string", f"apiGateway.podAnnotations.turn={turn}")
    time.sleep(2)
    probe.stop()
    check(not probe.lost, f"202, but no outcome: {probe.lost[:3]} and others; {probed(probe)}")
    WORLD.accepted += len(probe.accepted)
    return probe


@step("control: without preStop and farewell an upgrade is noticed")
def without_pre_stop():
    hasty = ["--set", "apiGateway.shutdown.preStopSeconds=0"]
    rude = [*hasty, "--set", "apiGateway.config.http.farewell_ms_max=0"]
    WORLD.upgrade(*rude)
    failures, sent = {}, 0
    for turn in range(4):
        settle("api-gateway", 3)
        probe = probe_an_upgrade(f"rude-{turn}", *rude)
        failures, sent = {kind: failures.get(kind, 0) + count for kind, count in probe.failures.items()}, sent + probe.sent
        if failures:
            break
    check(failures, f"nobody noticed: {sent} presses, no failure; then the steps above prove nothing")
    # The farewell alone: nobody stops to serve while somebody still asks.
    WORLD.upgrade(*hasty)
    settle("api-gateway", 3)
    alone = probe_an_upgrade("hasty", *hasty)
    # As it is shipped.
    WORLD.upgrade()
    settle("api-gateway", 3)
    both = probe_an_upgrade("shipped")
    check(not both.failures, f"with preStop and farewell: {probed(both)}, at s {both.when[:20]}")
    without = ", ".join(f"{kind} {count}" for kind, count in failures.items())
    return (
        f"without both: {sent} presses, failures {without}; every 202 has its outcome all the same\n      without preStop: {probed(alone)}\n"
        f"      as shipped: {probed(both)}\n      {WORLD.audit()}"
    )


@step("control: too short a grace is seen")
def too_short_a_grace():
    refused = WORLD.upgrade("--set", "apiGateway.shutdown.graceSeconds=10", codes=(1,)).stderr
    check("graceSeconds" in refused, refused)
    # Past the chart: a second for everything, and the process is held still, so that it needs longer than that.
    before = dict(WORLD.exits.seen)
    pod = pods("stock-consumer")[0]
    run(HERE / "enter.sh", pod["spec"]["nodeName"].removeprefix("node-"), "kill", "-STOP", container_pid(pod))
    kubectl("-n", NAMESPACE, "delete", "pod", pod["metadata"]["name"], "--grace-period=1")
    wait_until(lambda: any(code == 137 for code, _ in WORLD.exits.since(before).values()), "a container that was killed")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/firstcome-stock-consumer", "--timeout", ROLLOUT)
    return f"the chart refuses it by name; a consumer that is killed instead is seen: exit code 137\n      {WORLD.audit()}"


@step("memory: a limit is honoured")
def memory_limit():
    # Far too little for the auditor, and for it alone.
    WORLD.upgrade("--set", "reconciler.resources.limits.memory=6Mi", "--set", "reconciler.resources.requests.memory=6Mi", codes=(1,), timeout="30s")
    killed = lambda: [
        ended
        for pod in pods("reconciler")
        for container in pod["status"].get("containerStatuses", [])
        for ended in (container["state"].get("terminated"), container.get("lastState", {}).get("terminated"))
        if ended and ended["reason"] == "OOMKilled"
    ]
    wait_until(killed, "a reconciler of 6 MiB is killed")
    others = [pod["metadata"]["name"] for pod in pods(*SERVICES[:4]) if not is_ready(pod)]
    check(not others, f"not ready: {others}")
    code = killed()[0]["exitCode"]
    helm("rollback", RELEASE, "--wait", "--timeout", ROLLOUT)
    return f"a reconciler of 6 MiB: OOMKilled, exit code {code}; the others stay ready"


def gateways():
    return get("deployment", "firstcome-api-gateway")["spec"]["replicas"]


SCALED = [
    "--set", "apiGateway.autoscaling.enabled=true", "--set", "apiGateway.autoscaling.cpuPercent=20", "--set", "apiGateway.autoscaling.maxReplicas=5",
]


@step("control: an autoscaler switched on without handing the number over")
def switch_without_handing_over():
    kubectl("apply", "-f", HERE / "manifests" / "metrics-server.yaml")
    kubectl("-n", "kube-system", "rollout", "status", "deployment/metrics-server", "--timeout", "90s")
    wait_until(lambda: kubectl("-n", NAMESPACE, "top", "pods", codes=(0, 1)).returncode == 0, "figures of pods", 90)
    helm("upgrade", RELEASE, CHART, "-f", HERE / "values.yaml", "-f", WORLD.overrides, *SCALED)
    least = gateways()
    check(least < 3, f"{least} gateways: UPGRADING.md warns of what no longer happens")
    wait_until(lambda: gateways() >= 3, "the autoscaler's own least", 90)
    WORLD.upgrade()
    return f"3 gateways become {least} until the autoscaler sets its least: UPGRADING.md says how not to"


@step("autoscaler: switched on, more gateways under load, and an upgrade meanwhile")
def autoscale():
    def scale():
        counts = [gateways()]
        # As UPGRADING.md has it: whoever sets the number last owns it, and Helm takes only its own along.
        kubectl("-n", NAMESPACE, "scale", "deployment/firstcome-api-gateway", "--replicas=4")
        WORLD.upgrade(*SCALED)
        counts.append(gateways())
        wait_until(lambda: gateways() > 4, "a fifth gateway", 150)
        counts.append(gateways())
        WORLD.upgrade(*SCALED, "--set-string", "apiGateway.podAnnotations.turn=scaled")
        counts.append(gateways())
        check(counts == sorted(counts), f"an upgrade took gateways away: {counts}")
        return f"gateways {' → '.join(map(str, counts))}"

    return under_load(scale)


@step("control: replicas beside an autoscaler")
def replicas_beside_an_autoscaler():
    chart = STATE / "chart"
    run("rm", "-rf", chart)
    run("cp", "-r", CHART, chart)
    workload = chart / "templates" / "_workload.tpl"
    text = workload.read_text()
    fault = text.replace('{{- else if not (or $scaled (kindIs "invalid" $values.replicas)) }}', "{{- else }}")
    check(fault != text, "the chart no longer has the line that this control takes out")
    workload.write_text(fault)
    before = gateways()
    refused = helm("upgrade", RELEASE, chart, "-f", HERE / "values.yaml", "-f", WORLD.overrides, *SCALED, codes=(0, 1))
    after = gateways()
    check(refused.returncode or after < before, f"{before} gateways, and {after} after an upgrade that says 3")
    if refused.returncode == 0:
        return f"with the number in the template an upgrade takes {before} gateways down to {after}"
    return "refused: Apply failed" + refused.stderr.strip().rpartition("Apply failed")[2]


def main():
    began = time.monotonic()
    with LOG.open("w") as log:

        def say(text):
            print(text, flush=True)
            print(text, file=log, flush=True)

        if WANTED and (STATE / "world.json").exists():
            WORLD.load()
        for title, function in STEPS:
            if WANTED and not any(title.startswith(wanted) for wanted in WANTED):
                continue
            try:
                seen = function()
            except Exception as error:  # whatever it is, it is what this run has found
                say(f"[{time.monotonic() - began:5.0f} s] FAILED {title}\n      {type(error).__name__}: {error}")
                return 1
            WORLD.save()
            say(f"[{time.monotonic() - began:5.0f} s] ok {title}\n      {seen}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
