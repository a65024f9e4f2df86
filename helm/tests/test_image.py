"""The image and compose: what can be said about them without Docker."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import CHART, ROOT, TOOLS, of_kind, pods, render

BINARIES = pathlib.Path(os.environ["BINARIES"])
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROGRAMS = {"api-gateway", "stock-consumer", "db-writer", "notifier", "reconciler", "couponctl"}
OURS = {key: service for key, service in SERVICES.items() if service["image"].startswith("firstcome")}


def tool(program, *arguments):
    return subprocess.run([TOOLS / "python" / "bin" / program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_dockerfile_lint():
    linted = tool("hadolint", "deploy/Dockerfile")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_dockerfile_can_be_built_by_any_builder():
    assert not re.search(r"^\s*(COPY|ADD).*--link", DOCKERFILE, re.M), "buildah refuses --link"
    assert "<<" not in DOCKERFILE, "buildah refuses heredocs"
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.M))
    assert all(base.startswith("${") or base in stages for base in bases), "bases are arguments"
    arguments = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.M))
    assert set(arguments) == {"BUILDER_IMAGE", "RUNTIME_IMAGE"}
    for image in arguments.values():
        assert re.search(r":[\w.-]+$", image) and not image.endswith(":latest"), f"{image}: a tag; a release fills the digest"


def test_builder_is_our_toolchain_and_debian():
    channel = re.search(r'channel = "([\d.]+)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    assert f"ARG BUILDER_IMAGE=rust:{channel}-bookworm\n" in DOCKERFILE, "glibc and libssl of the runtime: Debian 12 on both sides"
    assert "cc-debian12" in DOCKERFILE


def test_image_has_what_the_chart_runs_and_runs_it_as_nobody():
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    runtime = DOCKERFILE[DOCKERFILE.index("AS runtime") :]
    assert "RUN " not in runtime, "there is no shell"
    assert re.findall(r"^USER (\S+)$", last, re.M) == ["65532:65532"]
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in last
    [listed] = re.findall(r"for program in ([a-z -]+); do", DOCKERFILE)
    assert set(listed.split()) == PROGRAMS
    used = {container["command"][0] for case in ("minimal", "dev") for _, _, pod in pods(render(case)) for container in pod["containers"]}
    assert used == {f"/usr/local/bin/{program}" for program in PROGRAMS}
    exposed = set(map(int, re.search(r"^EXPOSE (.+)$", last, re.M)[1].split()))
    assert exposed == {port["containerPort"] for thing in of_kind(render("full"), "Deployment") for port in thing["spec"]["template"]["spec"]["containers"][0]["ports"]}


def test_both_builds_build_the_same_packages():
    cook, build = re.findall(r"cargo (?:chef cook|build) .*?((?: -p [a-z-]+)+)", DOCKERFILE.replace("\\\n", " "))
    assert cook.split() == build.split()
    assert set(build.split()) - {"-p"} == PROGRAMS | {"loadgen"}
    assert DOCKERFILE.count("--locked") >= 3


def test_build_context_has_what_the_build_reads():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"Cargo.toml", "Cargo.lock", "crates", "deploy/postgres", "deploy/redis", "migrations"} == allowed
    # What programs take in from outside their crate, tests aside.
    for source in (ROOT / "crates").glob("*/src/**/*.rs"):
        text = source.read_text().split("#[cfg(test)]")[0]
        for taken in re.findall(r'(?:include_str|include_bytes|embed_migrations)!\("((?:\.\./)+[^"]+)"', text):
            base = source.parents[len(source.relative_to(ROOT / "crates").parts) - 2] if "migrations" in taken else source.parent
            path = (base / taken).resolve().relative_to(ROOT)
            assert any(path.is_relative_to(folder) for folder in allowed), f"{source}: {taken}"


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_libraries_are_those_of_the_image(program):
    """Distroless cc has the C library, libgcc and OpenSSL; libz is copied in."""
    linked = subprocess.run(["ldd", BINARIES / program], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].rsplit("/", 1)[-1] for line in linked.splitlines()}
    in_image = {"linux-vdso.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libssl.so.3", "libcrypto.so.3", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libz.so.1"}
    assert "libz.so.1" in names and names <= in_image, names - in_image


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_run_in_an_empty_root_as_nobody(program, tmp_path):
    """Nothing but the program and its libraries: no shell, no /etc, no /tmp, uid 65532, no capability that it could miss."""
    linked = subprocess.run(["ldd", BINARIES / program], capture_output=True, text=True, check=True).stdout
    for library in map(pathlib.Path, re.findall(r"(/\S+) \(0x", linked)):
        (tmp_path / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, tmp_path / library.relative_to("/"))
        (tmp_path / library.relative_to("/")).chmod(0o755)
    shutil.copyfile(BINARIES / program, tmp_path / "program")
    (tmp_path / "program").chmod(0o755)
    tmp_path.chmod(0o755)
    # Without root's rights a user namespace of its own has to do, with this user in it.
    enter = ["chroot", "--userspec=65532:65532"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "chroot"]
    run = subprocess.run([*enter, tmp_path, "/program", "--version"], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stdout.startswith(program), run.stderr


def test_compose_is_valid():
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    assert checked.returncode == 0, checked.stdout


def test_yaml_is_tidy():
    linted = tool("yamllint", "--strict", "helm", "deploy", ".yamllint.yaml")
    assert linted.returncode == 0, linted.stdout


def test_compose_stays_on_this_machine():
    profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert profiles == {"infra", "app", "observability", "load"}
    for key, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), key
        assert service["image"].rsplit(":", 1)[-1] not in ("latest", service["image"]), f"{key}: a tag"


def test_compose_waits_for_what_it_needs():
    for key, service in SERVICES.items():
        one_shot = key in ("topics", "migrate", "couponctl", "load")
        assert ("healthcheck" in service) != one_shot, key
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ("topics", "migrate") else "service_healthy"
            assert how["condition"] == expected, f"{key} → {needed}"
            assert set(service["profiles"]) <= set(SERVICES[needed]["profiles"]), f"{key} needs {needed}, which another profile starts"


def test_compose_mounts_what_is_there():
    for key, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                there = (DEPLOY / source).resolve()
                # Boards and rules may not lie here yet; their folders are the chart's.
                assert there.exists() or there.is_relative_to(CHART / "files"), f"{key}: {source}"
            else:
                assert source in COMPOSE["volumes"], key
        for config in service.get("configs", []):
            assert yaml.safe_load(COMPOSE["configs"][config["source"]]["content"]), key
    assert (DEPLOY / SERVICES["api-gateway"]["build"]["context"] / SERVICES["api-gateway"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("key", sorted(OURS))
def test_programs_take_composes_environment(key):
    service = OURS[key]
    environment = {variable: str(value) for variable, value in service["environment"].items()}
    if key == "load":
        command = [BINARIES / "loadgen"]
    else:
        path, *arguments = service.get("command") or service["entrypoint"]
        command = [BINARIES / pathlib.Path(path).name, *arguments]

    def run(*arguments, **further):
        return subprocess.run([*command, *arguments], env=environment | further, capture_output=True, text=True, check=False, timeout=60)

    if key in ("topics", "migrate"):
        nowhere = {"FIRSTCOME__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"} if key == "topics" else {"FIRSTCOME__POSTGRES__URL": "postgres://a:b@127.0.0.1:1/c"}
        assert run(**nowhere).returncode == 1, "it gets as far as its server"
        assert run(**nowhere, FIRSTCOME__ANOTHER__KEY="1").returncode == 2, "a control"
    elif key in ("couponctl", "load"):
        known = set(re.findall(r"\[env: (\w+)", run("--help").stdout))
        assert set(environment) <= known
    else:
        checked = run("--check-config")
        assert checked.returncode == 0, checked.stderr
        assert run("--check-config", FIRSTCOME__ANOTHER__KEY="1").returncode == 2, "a control"
        test = service["healthcheck"]["test"]
        assert test == ["CMD", *service["command"], "healthcheck"]
        asked = run("healthcheck", FIRSTCOME__OPS__LISTEN="127.0.0.1:1")
        assert asked.returncode == 1 and "no answer from 127.0.0.1:1" in asked.stderr


def test_prometheus_scrapes_every_service():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    services = {key for key, service in OURS.items() if "healthcheck" in service}
    wanted = {key: ([f"{key}:9090"], "firstcome") for key in services}
    groups = [(group["labels"]["service"], group["targets"], group["labels"]["namespace"]) for group in job["static_configs"]]
    assert {service: (targets, namespace) for service, targets, namespace in groups} == wanted and len(services) == 5
    # Else what a service says of itself would be renamed.
    assert job["honor_labels"]


def locations():
    text = (DEPLOY / "nginx" / "sse.conf").read_text()
    return dict(re.findall(r"location (\S+) \{\n(.*?)\n    \}", text, re.S))


def test_streams_pass_through_nginx_unbuffered():
    found = locations()
    assert "proxy_pass http://notifier;" in found["/v1/claims/"] and "proxy_buffering off;" in found["/v1/claims/"]
    assert "proxy_read_timeout 1h;" in found["/v1/claims/"]
    assert "proxy_pass http://gateway;" in found["/v1/"] and "proxy_read_timeout 10s;" in found["/v1/"]
    assert found["/"].strip() == "return 404;", "neither admin API nor metrics"
    upstreams = (DEPLOY / "nginx" / "upstreams.conf").read_text()
    assert set(re.findall(r"server (\S+);", upstreams)) == {"api-gateway:8080", "notifier:8080"}
    kept = int(re.search(r"keepalive_timeout (\d+)s;", upstreams)[1])
    printed = subprocess.run(
        [BINARIES / "notifier", "--print-config"],
        env={key: str(value) for key, value in SERVICES["notifier"]["environment"].items()},
        capture_output=True, text=True, check=True,
    ).stdout
    assert kept < int(re.search(r"^http\.keep_alive_s = (\d+)", printed, re.M)[1]), "nginx would meet closed connections"


def test_no_dashboard_or_rule_is_json_that_does_not_parse():
    for path in (CHART / "files" / "dashboards").glob("*.json"):
        json.loads(path.read_text())
