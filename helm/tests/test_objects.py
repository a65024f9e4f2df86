"""What the chart makes: valid, restricted, and nothing in it names what is not there."""

import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from conftest import CHART, KUBERNETES, TOOLS, helm, name, of_kind, pods, render, render_text

NATIVE = re.compile(r"^(v1|[a-z0-9.]+\.k8s\.io/.+|apps/.+|batch/.+|policy/.+|autoscaling/.+)$")
OTHERS = ("gateway.networking.k8s.io/",)


def labels_of(metadata):
    return metadata.get("labels", {})


def matches(selector, metadata):
    selector = selector.get("matchLabels", selector)
    return selector.items() <= labels_of(metadata).items()


def deployments(objects):
    return of_kind(objects, "Deployment")


def deployment_of(objects, selector):
    """The deployments whose pods a selector finds; every other pod that it finds as well."""
    return [thing for thing, metadata, _ in pods(objects) if thing["kind"] != "Pod" and matches(selector, metadata)]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_native_objects_are_valid(objects, version):
    native = [thing for thing in objects if NATIVE.match(thing["apiVersion"]) and not thing["apiVersion"].startswith(OTHERS)]
    assert len(native) > 20
    for thing in native:
        kubernetes_validate.validate(thing, version, strict=True)


def test_the_validator_finds_faults():
    """A control: strict means that an unknown field is an error."""
    [gateway] = [thing for thing in deployments(render("minimal")) if name(thing).endswith("api-gateway")]
    gateway["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gateway, "1.30", strict=True)


def test_names_are_unique_short_and_in_the_release(objects):
    seen = [(thing["kind"], name(thing)) for thing in objects]
    assert len(seen) == len(set(seen))
    for thing in objects:
        if thing["kind"] == "ScaledObject":
            continue
        assert len(name(thing)) <= 63, name(thing)
        assert thing["metadata"]["namespace"] == "coupons", name(thing)
        assert thing["metadata"]["labels"]["app.kubernetes.io/instance"] == "firstcome"


def test_names_stay_short_whatever_the_release_is_called():
    for thing in render("minimal", values=json.dumps({"fullnameOverride": "n" * 100})):
        assert len(name(thing)) <= 63, name(thing)


def test_selectors_find_what_they_are_for(objects):
    for deployment in deployments(objects):
        found = deployment_of(objects, deployment["spec"]["selector"])
        assert found == [deployment], f"{name(deployment)} owns {[name(thing) for thing in found]}"
    for thing in of_kind(objects, "Service", "PodDisruptionBudget"):
        selector = thing["spec"]["selector"]
        found = deployment_of(objects, selector)
        assert [each["kind"] for each in found] == ["Deployment"], f"{name(thing)} finds {[name(each) for each in found]}"
        component = labels_of(thing["metadata"])["app.kubernetes.io/component"]
        assert labels_of(found[0]["metadata"])["app.kubernetes.io/component"] == component
    for policy in of_kind(objects, "NetworkPolicy"):
        assert deployment_of(objects, policy["spec"]["podSelector"]), name(policy)


def test_copies_are_spread_with_and_without_zones():
    """A real scheduler leaves a node out of all soft constraints where it lacks the label of one: a second one, for zones, would undo the first where there are none."""
    spread = [deployment for deployment in deployments(render("minimal")) if "reconciler" not in name(deployment)]
    assert len(spread) == 4
    for deployment in spread:
        pod = deployment["spec"]["template"]
        [over_nodes] = pod["spec"]["topologySpreadConstraints"]
        assert over_nodes["topologyKey"] == "kubernetes.io/hostname" and over_nodes["whenUnsatisfiable"] == "ScheduleAnyway"
        assert matches(over_nodes["labelSelector"], pod["metadata"])
        [over_zones] = pod["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert over_zones["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"
        assert matches(over_zones["podAffinityTerm"]["labelSelector"], pod["metadata"])


def test_selectors_never_change():
    """They are immutable: neither another image nor another chart version nor new labels may touch them."""
    before = render("minimal")
    after = render("minimal", values='{"image": {"tag": "9.9.9"}, "commonLabels": {"team": "other"}, "stockConsumer": {"replicas": 5}}')

    def selectors(objects):
        return {name(thing): thing["spec"]["selector"] for thing in deployments(objects)}

    assert selectors(before) == selectors(after)
    for selector in selectors(before).values():
        assert set(selector["matchLabels"]) == {f"app.kubernetes.io/{label}" for label in ("name", "instance", "component")}


def port_names(deployment):
    return {port["name"]: port["containerPort"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}


def test_ports_exist(objects):
    for service in of_kind(objects, "Service"):
        [deployment] = deployment_of(objects, service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in port_names(deployment), name(service)
            assert port["targetPort"] != "ops", "probes and metrics are behind no service"
    for deployment in deployments(objects):
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == "ops"
        assert "ops" in port_names(deployment)
    for policy in of_kind(objects, "NetworkPolicy"):
        for found in deployment_of(objects, policy["spec"]["podSelector"]):
            for rule in policy["spec"]["ingress"]:
                assert all(port["port"] in port_names(found) for port in rule["ports"]), name(policy)
    for monitor in of_kind(objects, "PodMonitor"):
        watched = [thing for thing in deployment_of(objects, monitor["spec"]["selector"]) if thing["kind"] == "Deployment"]
        assert watched == deployments(objects)
        assert all(endpoint["port"] == "ops" for endpoint in monitor["spec"]["podMetricsEndpoints"])


def test_references_resolve(objects):
    made = {(thing["kind"], name(thing)) for thing in objects}
    ports = {name(thing): {port["name"]: port["port"] for port in thing["spec"]["ports"]} for thing in of_kind(objects, "Service")}
    for thing, _, pod in pods(objects):
        assert ("ServiceAccount", pod["serviceAccountName"]) in made, name(thing)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made, name(thing)
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes, name(thing)
            for variable in container.get("env", []):
                if variable["name"].endswith("_URL"):
                    assert variable["value"].removeprefix("http://") in ports, variable
    for hpa in of_kind(objects, "HorizontalPodAutoscaler"):
        assert ("Deployment", hpa["spec"]["scaleTargetRef"]["name"]) in made
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in ports[backend["name"]]
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["port"] in ports[backend["name"]].values()


def test_secrets_are_mounted_never_made(case, objects):
    assert not of_kind(objects, "Secret")
    given = (CHART / "ci" / f"{case}-values.yaml").read_text()
    for thing, _, pod in pods(objects):
        for volume in pod.get("volumes", []):
            for source in volume.get("projected", {}).get("sources", []):
                assert source["secret"]["name"] in given, name(thing)
                assert source["secret"]["items"], "all keys of a secret are more than a service needs"


def test_pods_are_restricted(objects):
    """The restricted Pod Security Standard, and what goes beyond it."""
    for thing, _, pod in pods(objects):
        where = name(thing)
        assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"], where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 65532 and security["fsGroup"] == 65532, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        allowed = {"configMap", "projected"} | ({"emptyDir"} if where.endswith(("-operator", "-reconciler")) else set())
        assert all(set(volume) - {"name"} <= allowed for volume in pod.get("volumes", [])), where
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }, where
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), where
            assert set(resources["limits"]) == {"memory"}, f"{where}: memory but no CPU limit"
            assert not container["image"].endswith(":latest") and re.search(r":[^/]+$|@sha256:", container["image"]), where


def test_whoever_scales_is_alone(objects):
    scaled = {hpa["spec"]["scaleTargetRef"]["name"]: hpa for hpa in of_kind(objects, "HorizontalPodAutoscaler")}
    scaled |= {thing["spec"]["scaleTargetRef"]["name"]: thing for thing in of_kind(objects, "ScaledObject")}
    for deployment in deployments(objects):
        assert ("replicas" in deployment["spec"]) != (name(deployment) in scaled), name(deployment)


def test_rollouts(objects):
    for deployment in deployments(objects):
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        serves = labels_of(deployment["metadata"])["app.kubernetes.io/component"] in ("api-gateway", "notifier")
        expected = {"maxSurge": "25%", "maxUnavailable": 0} if serves else {"maxSurge": 0, "maxUnavailable": 1}
        assert rolling == expected, name(deployment)


def test_budgets_leave_room(case, objects):
    budgets = {labels_of(thing["metadata"])["app.kubernetes.io/component"]: thing for thing in of_kind(objects, "PodDisruptionBudget")}
    for budget in budgets.values():
        assert budget["spec"]["maxUnavailable"] == 1 and budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    expected = set() if case == "dev" else {"api-gateway", "stock-consumer", "db-writer", "notifier"}
    assert set(budgets) == expected, "none below two replicas: it would block every drain"


def test_streams_go_their_own_way():
    objects = render("full")
    for kind in ("Ingress", "HTTPRoute"):
        assert len(of_kind(objects, kind)) == 3, f"{kind}: API, streams, admin"
    ingresses = {thing["spec"]["rules"][0]["http"]["paths"][0]["path"]: thing for thing in of_kind(objects, "Ingress")}
    streams = ingresses["/v1/claims"]
    assert streams["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "shop-notifier"
    assert streams["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert "nginx.ingress.kubernetes.io/proxy-buffering" not in ingresses["/v1"]["metadata"]["annotations"]
    assert ingresses["/v1"]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "10"
    hosts = {path: thing["spec"]["rules"][0]["host"] for path, thing in ingresses.items()}
    assert hosts["/v1"] == hosts["/v1/claims"] != hosts["/admin/v1"]
    routes = {}
    for route in of_kind(objects, "HTTPRoute"):
        [rule] = route["spec"]["rules"]
        routes[rule["matches"][0]["path"]["value"]] = (rule["backendRefs"][0]["name"], rule["timeouts"]["request"])
    assert routes["/v1/claims"] == ("shop-notifier", "0s")
    assert routes["/v1"] == ("shop-api-gateway", "10s")
    assert routes["/admin/v1"][0] == "shop-api-gateway-admin"


def test_the_admin_api_is_off_unless_asked_for():
    for case in ("minimal", "dev"):
        assert "/admin/v1" not in render_text(case, values='{"ingress": {"enabled": true, "host": "a.internal"}}')


def test_the_only_hooks_are_tests(objects):
    for thing in objects:
        hook = thing["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert hook in (None, "test"), f"{name(thing)} is a hook: with --wait pods and hooks would wait for each other"
        assert (hook == "test") == (thing["kind"] == "Pod")


def jobs(objects):
    return {labels_of(thing["metadata"])["app.kubernetes.io/component"]: thing for thing in of_kind(objects, "Job")}


def test_jobs_are_named_by_their_spec():
    """Templates of jobs are immutable: another spec has to be another job, and the same spec the same one."""
    before = jobs(render("minimal"))
    assert set(before) == {"topics", "migrate"}
    changes = {
        '{"image": {"tag": "9.9.9"}}': {"topics", "migrate"},
        '{"kafka": {"partitions": 24}}': {"topics"},
        '{"postgres": {"urlKeys": {"migrate": "another"}}}': {"migrate"},
        '{"migrate": {"backoffLimit": 3}}': {"migrate"},
        '{"config": {"postgres": {"statement_timeout_ms": 60000}}}': {"migrate"},
        '{"stockConsumer": {"replicas": 5}}': set(),
        '{"config": {"log": {"filter": "debug"}}}': set(),
    }
    for values, expected in changes.items():
        after = jobs(render("minimal", values=values))
        assert {key for key in before if name(before[key]) != name(after[key])} == expected, values
        for key in before:
            same_spec, same_name = before[key]["spec"] == after[key]["spec"], name(before[key]) == name(after[key])
            assert not same_name or same_spec, f"{key} with {values}: the same name, another spec"


def test_a_new_chart_with_the_same_image_replaces_nothing(tmp_path):
    shutil.copytree(CHART, tmp_path / "firstcome")
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (tmp_path / "firstcome" / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "9.9.9"}))
    arguments = ["--namespace", "coupons", "--kube-version", KUBERNETES, "-f", CHART / "ci" / "minimal-values.yaml"]
    rendered = helm("template", "firstcome", tmp_path / "firstcome", *arguments)
    after = [thing for thing in yaml.safe_load_all(rendered.stdout) if thing]
    assert len(after) > 20 and "firstcome-9.9.9" in rendered.stdout

    def templates(objects):
        return {(thing["kind"], name(thing)): (metadata, pod) for thing, metadata, pod in pods(objects) if thing["kind"] != "Pod"}

    assert templates(render("minimal", crds=False)) == templates(after)


def test_policies_let_through_what_is_needed():
    objects = render("full")
    policies = {labels_of(thing["metadata"])["app.kubernetes.io/component"]: thing["spec"] for thing in of_kind(objects, "NetworkPolicy")}
    ports = {"kafka": 9093, "postgres": 5432, "redis": 6379}
    configs = {name(thing).removeprefix("shop-"): json.loads(thing["data"]["config.json"]) for thing in of_kind(objects, "ConfigMap") if "config.json" in thing["data"]}
    assert set(policies) == set(configs) | {"jobs"} and len(configs) == 5
    for service, config in configs.items():
        open_to = {port["port"] for rule in policies[service]["egress"] for port in rule["ports"]}
        assert open_to == {53} | {port for peer, port in ports.items() if peer in config}, service
        assert policies[service]["policyTypes"] == ["Ingress", "Egress"]
    assert {*ports.values(), 53, 8080, 8081} == {port["port"] for rule in policies["jobs"]["egress"] for port in rule["ports"]}
    [operators] = [rule for rule in policies["api-gateway"]["ingress"] if rule["ports"][0]["port"] == "admin"]
    assert len(operators["from"]) == 2, "operators, and this release's jobs"


def test_policy_checker(case):
    """kube-score: what it says and we do not follow has its reason here."""
    ignored = {
        "container-resources": "no CPU limit: throttling in the second of the stampede would be the outage",
        "container-ephemeral-storage-request-and-limit": "nothing is written: the root is read-only, and only the operator's pod has a volume to write to",
        "container-security-context-user-group-id": "set for the pod",
        "container-image-pull-policy": "tags are versions, never moved; a digest wins anyway",
        "deployment-has-host-podantiaffinity": "soft topology spread says the same",
        "deployment-replicas": "dev, and the reconciler, are one on purpose",
        "pod-probes-identical": "three different questions",
        "pod-networkpolicy": "opt-in",
        "service-type": "NodePort is dev's way in",
        "deployment-has-poddisruptionbudget": "none below two replicas",
    }
    arguments = [f"--ignore-test={test}" for test in ignored]
    if not (TOOLS / "bin" / "kube-score").exists():
        pytest.skip("no Go here to build kube-score with")
    objects = [thing for thing in render(case) if NATIVE.match(thing["apiVersion"])]
    command = [TOOLS / "bin" / "kube-score", "score", "--output-format=ci", *arguments, "-"]
    scored = subprocess.run(command, input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False)
    bad = [line for line in scored.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))]
    assert not bad and "[OK]" in scored.stdout, "\n".join(bad) + scored.stderr
