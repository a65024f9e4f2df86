"""Plants one fault after another in a copy of the tree, and demands that the named check finds it. Prints a table.

Usage: FIRSTCOME_TOOLS=$(helm/tests/tools.sh) BINARIES=target/debug python helm/tests/plant_faults.py [part of a check's name]
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
T = "helm/firstcome/templates"
# What is wrong, where, what stands there, what stands there then, and the check that has to say so.
FAULTS = [
    ("a version that is none", "helm/firstcome/Chart.yaml", "version: 0.1.0\napp", "version: first\napp", "test_lint"),
    ("something that only one Helm says", f"{T}/_workload.tpl", "revisionHistoryLimit: 5", 'revisionHistoryLimit: {{ ternary 5 6 (hasPrefix "v3" .root.Capabilities.HelmVersion.Version) }}', "test_both_versions_of_helm_agree"),
    ("a change that nobody looked at", f"{T}/_workload.tpl", "revisionHistoryLimit: 5", "revisionHistoryLimit: 6", "test_golden"),
    ("a golden of a case that is gone", "helm/tests/golden/old/bare.yaml", None, "", "test_no_golden_is_left_over"),
    ("a validation that is off by one", f"{T}/validations.yaml", "le (int .graceSeconds)", "lt (int .graceSeconds)", "test_bad_values_are_refused_with_their_reason"),
    ("a validation without an example", f"{T}/validations.yaml", "{{- if $wrong }}", '{{- if eq .Release.Name "x" }}{{- $wrong = append $wrong "x: another name" }}{{ end }}\n{{- if $wrong }}', "test_each_remedy_has_a_bad_example"),
    ("a value that is not in the schema", "helm/firstcome/values.yaml", 'nameOverride: ""', 'nameOverride: ""\n# Nothing.\nanother: 1', "test_schema_and_values_know_the_same"),
    ("a map that takes any key", "helm/firstcome/values.schema.json", '"additionalProperties": false', '"additionalProperties": true', "test_the_schema_refuses_unknown_keys_everywhere"),
    ("a value without a word", "helm/firstcome/values.yaml", "  # IfNotPresent, Always or Never.\n", "", "test_every_value_is_documented"),
    ("a value that does nothing", f"{T}/_workload.tpl", "terminationGracePeriodSeconds: {{ $values.shutdown.graceSeconds }}", "terminationGracePeriodSeconds: 30", "test_no_value_is_dead"),
    ("rules in subfolders are forgotten", f"{T}/prometheusrule.yaml", "files/rules/**.yaml", "files/rules/*.yaml", "test_files_arrive"),
    ("an alert about another namespace", f"{T}/prometheusrule.yaml", 'replace "namespace=\\"firstcome\\""', 'replace "namespace=\\"somewhere\\""', "test_files_arrive"),
    ("a rule object without rules", f"{T}/prometheusrule.yaml", "and .enabled $groups (", "and .enabled (", "test_without_files_there_is_nothing"),
    ("a field that Kubernetes does not know", f"{T}/_helpers.tpl", "enableServiceLinks: false", "enableServiceLinks: false\nrestartPolice: Always", "test_native_objects_are_valid"),
    ("a field that only newer Kubernetes lets out", f"{T}/_job.tpl", ', status: "True"', "", "test_native_objects_are_valid"),
    ("a field that a PodMonitor does not have", f"{T}/podmonitor.yaml", "honorLabels: true", "honourLabels: true", "test_others_kinds_are_valid"),
    ("a time that Gateway API cannot read", f"{T}/httproute.yaml", "timeouts: {request: {{ .timeout }},", "timeouts: {request: forever,", "test_others_kinds_are_valid"),
    ("two objects of one name", f"{T}/_workload.tpl", '"name" $facts.name "suffix" "admin"', '"name" $facts.name', "test_names_are_unique_short_and_in_the_release"),
    ("names that a label cannot hold", f"{T}/_helpers.tpl", ".Values.fullnameOverride | default $release | trunc 40", ".Values.fullnameOverride | default $release | trunc 63", "test_names_stay_short_whatever_the_release_is_called"),
    ("selectors that find other services' pods", f"{T}/_helpers.tpl", "app.kubernetes.io/component: {{ .name }}\n{{- end }}", "{{- end }}", "test_selectors_find_what_they_are_for"),
    ("copies spread over zones alone", f"{T}/_workload.tpl", "        - topologyKey: kubernetes.io/hostname\n", "        - topologyKey: topology.kubernetes.io/zone\n", "test_copies_are_spread_with_and_without_zones"),
    ("a version in a selector", f"{T}/_helpers.tpl", "app.kubernetes.io/component: {{ .name }}\n{{- end }}", "app.kubernetes.io/component: {{ .name }}\nversion: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}\n{{- end }}", "test_selectors_never_change"),
    ("a service for a port that is not there", f"{T}/_workload.tpl", "targetPort: http,", "targetPort: web,", "test_ports_exist"),
    ("a service account that is not made", f"{T}/_job.tpl", "serviceAccountName: {{ include \"firstcome.fullname\" .root }}-jobs", "serviceAccountName: {{ include \"firstcome.fullname\" .root }}-job", "test_references_resolve"),
    ("a secret in the release", f"{T}/jobs.yaml", "apiVersion: v1\nkind: ConfigMap", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap", "test_secrets_are_mounted_never_made"),
    ("a writable root", f"{T}/_helpers.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "test_pods_are_restricted"),
    ("a CPU limit", "helm/firstcome/values.yaml", "limits: {memory: 1Gi}", 'limits: {memory: 1Gi, cpu: "1"}', "test_pods_are_restricted"),
    ("replicas beside an autoscaler", f"{T}/_workload.tpl", "if not (or $scaled (kindIs", "if not (or false (kindIs", "test_whoever_scales_is_alone"),
    ("a consumer that surges", f"{T}/_workload.tpl", "maxSurge: 0", "maxSurge: 1", "test_rollouts"),
    ("a budget for a single replica", f"{T}/_workload.tpl", "| int) 2) }}", "| int) 1) }}", "test_budgets_leave_room"),
    ("streams sent to the gateway", f"{T}/httproute.yaml", '"service" (printf "%s-notifier" $name)', '"service" (printf "%s-api-gateway" $name)', "test_streams_go_their_own_way"),
    ("streams that are buffered", "helm/firstcome/values.yaml", '    nginx.ingress.kubernetes.io/proxy-buffering: "off"\n', "", "test_streams_go_their_own_way"),
    ("the admin API beside the users'", f"{T}/ingress.yaml", "{{- if .admin.enabled }}", "{{- if .enabled }}", "test_the_admin_api_is_off_unless_asked_for"),
    ("a job as a hook", f"{T}/_job.tpl", '| include "firstcome.metadata" | nindent 2 }}\nspec:\n  {{- $spec', '| include "firstcome.metadata" | nindent 2 }}\n  annotations: {helm.sh/hook: pre-upgrade}\nspec:\n  {{- $spec', "test_the_only_hooks_are_tests"),
    ("a job with one name for all specs", f"{T}/_job.tpl", "(sha256sum $spec | trunc 10)", '"once"', "test_jobs_are_named_by_their_spec"),
    ("the chart's version on pods", f"{T}/_workload.tpl", 'include "firstcome.podLabels" $of', 'include "firstcome.labels" $of', "test_a_new_chart_with_the_same_image_replaces_nothing"),
    ("a policy that shuts Redis out", f"{T}/_workload.tpl", 'range $peer := list "kafka" "postgres" "redis"', 'range $peer := list "kafka" "postgres"', "test_policies_let_through_what_is_needed"),
    ("an image called latest", f"{T}/_helpers.tpl", ":{{ .tag | default $.Chart.AppVersion }}{{ end }}", ":latest{{ end }}", "test_policy_checker"),
    ("a setting that no service knows", f"{T}/_connections.tpl", '"bootstrap_servers" .bootstrapServers', '"bootstrap" .bootstrapServers', "test_services_take_their_configuration"),
    ("probes that nobody outside the pod reaches", f"{T}/_connections.tpl", '"listen" (printf "0.0.0.0:%d" (int $facts.ports.ops))', '"listen" (printf "127.0.0.1:%d" (int $facts.ports.ops))', "test_services_take_their_configuration"),
    ("keys for a service that does without", f"{T}/_connections.tpl", '{{- if has "keys" .needs }}\n- secret:', "{{- if true }}\n- secret:", "test_every_mounted_secret_is_read"),
    ("a database in the open", f"{T}/_connections.tpl", '(set $files "enabled" true)', '(dict "enabled" false)', "test_with_everything_on_nothing_travels_in_the_open"),
    ("a job that counts other partitions", f"{T}/_connections.tpl", '"partitions" .partitions', '"partitions" (ternary 6 .partitions (eq $.key "topics"))', "test_services_agree_about_the_log"),
    ("draining for longer than there is time", f"{T}/_connections.tpl", "mul $values.shutdown.budgetSeconds 1000", "mul $values.shutdown.budgetSeconds 3000", "test_drain_fits_into_grace"),
    ("another default than the program's", "helm/firstcome/values.yaml", "leewaySeconds: 5", "leewaySeconds: 30", "test_defaults_are_the_programs_own"),
    ("a probe that nobody answers", f"{T}/_workload.tpl", "/livez", "/healthz", "test_probes_ask_what_the_ops_listener_answers"),
    ("a command that couponctl does not know", f"{T}/_job.tpl", "arguments: [migrate]", "arguments: [migration]", "test_jobs_take_their_configuration"),
    ("a section that couponctl does not know", f"{T}/_connections.tpl", '{{- $out := dict "profile" $values.profile }}', '{{- $out := dict "profile" $values.profile "log" (dict "filter" "info") }}', "test_jobs_take_their_configuration"),
    ("an operator's pod without keys", f"{T}/_job.tpl", "needs: [kafka, postgres, redis, keys]", "needs: [kafka, postgres, redis]", "test_the_operators_pod_can_do_what_runbooks_ask"),
    ("an operator's pod that can write nothing", f"{T}/_job.tpl", "arguments: [idle], scratch: true", "arguments: [idle]", "test_the_operators_pod_can_do_what_runbooks_ask"),
    ("a variable that couponctl does not know", f"{T}/_job.tpl", "name: ADMIN_TOKEN", "name: OPERATOR_TOKEN", "test_jobs_that_talk_to_the_api"),
    ("ADD for COPY", "deploy/Dockerfile", "COPY . .\nRUN cargo chef", "ADD . .\nRUN cargo chef", "test_dockerfile_lint"),
    ("a layer that buildah refuses", "deploy/Dockerfile", "COPY --from=build /image/ /", "COPY --link --from=build /image/ /", "test_dockerfile_can_be_built_by_any_builder"),
    ("another toolchain in the image", "deploy/Dockerfile", "rust:1.95.0", "rust:1.94.0", "test_builder_is_our_toolchain_and_debian"),
    ("an image that runs as root", "deploy/Dockerfile", "USER 65532:65532\nEXPOSE", "USER 0:0\nEXPOSE", "test_image_has_what_the_chart_runs_and_runs_it_as_nobody"),
    ("a program that the image lacks", "deploy/Dockerfile", "for program in api-gateway stock-consumer", "for program in api-gateway", "test_image_has_what_the_chart_runs_and_runs_it_as_nobody"),
    ("a cache for other packages", "deploy/Dockerfile", "recipe.json \\\n    -p api-gateway -p stock-consumer", "recipe.json \\\n    -p api-gateway", "test_both_builds_build_the_same_packages"),
    ("a build without migrations", ".dockerignore", "!migrations\n", "", "test_build_context_has_what_the_build_reads"),
    ("a library that the image lacks", "binaries/notifier", None, "git", "test_libraries_are_those_of_the_image"),
    ("another program under a program's name", "binaries/couponctl", None, "bash", "test_programs_run_in_an_empty_root_as_nobody"),
    ("a word that compose does not know", "deploy/compose.yaml", "read_only: true", "readonly: true", "test_compose_is_valid"),
    ("a key twice", "deploy/prometheus.yml", "  scrape_interval: 5s\n", "  scrape_interval: 5s\n  scrape_interval: 6s\n", "test_yaml_is_tidy"),
    ("a port for the whole network", "deploy/compose.yaml", "127.0.0.1:8081:8081", "8081:8081", "test_compose_stays_on_this_machine"),
    ("a service that does not wait for its schema", "deploy/compose.yaml", "migrate: {condition: service_completed_successfully}", "migrate: {condition: service_started}", "test_compose_waits_for_what_it_needs"),
    ("a mount of nothing", "deploy/compose.yaml", "./prometheus.yml:", "./prometheus.yaml:", "test_compose_mounts_what_is_there"),
    ("a variable that no service knows", "deploy/compose.yaml", "FIRSTCOME__AUTH__HS256_SECRET", "FIRSTCOME__AUTH__SECRET", "test_programs_take_composes_environment"),
    ("a service that nobody scrapes", "deploy/prometheus.yml", "          - db-writer:9090\n", "", "test_prometheus_scrapes_every_service"),
    ("nginx that holds events back", "deploy/nginx/sse.conf", "        proxy_buffering off;\n", "", "test_streams_pass_through_nginx_unbuffered"),
    ("nginx that holds events back", "deploy/nginx/sse.conf", "        proxy_buffering off;\n", "        proxy_http_version 1.0;\n", "test_events_arrive_when_they_are_sent"),
    ("a proxy that presses again", "deploy/nginx/sse.conf", "proxy_next_upstream off;", "proxy_next_upstream error timeout;", "test_nothing_is_pressed_twice"),
    ("claims' own path to the gateway", "deploy/nginx/sse.conf", "proxy_pass http://notifier;", "proxy_pass http://gateway;", "test_each_path_has_its_service_and_nothing_else_is_reachable"),
    ("a dashboard cut off", "helm/firstcome/files/dashboards/cut.json", None, "{", "test_no_dashboard_or_rule_is_json_that_does_not_parse"),
]


def plant(tree, path, before, after):
    target = tree / path
    if before is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("binaries/"):
            target.unlink()
            target.symlink_to(shutil.which(after))
        else:
            target.write_text(after)
        return
    text = target.read_text()
    if before not in text:
        raise SystemExit(f"{path} has no {before!r}: this fault is out of date")
    target.write_text(text.replace(before, after))


def failures(tree, check):
    """The tests of that name that failed, as pytest counts them."""
    environment = os.environ | {"BINARIES": str(tree / "binaries"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", "-k", check, "helm/tests"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    unseen = []
    print("|check|what it caught|\n|---|---|")
    for fault, path, before, after, check in FAULTS:
        if wanted not in check:
            continue
        with tempfile.TemporaryDirectory() as folder:
            tree = pathlib.Path(folder) / "tree"
            listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
            for file in listed.stdout.splitlines():
                if file.startswith(("helm/", "deploy/", "crates/", "rust-toolchain", ".dockerignore", ".yamllint")) and (ROOT / file).is_file():
                    (tree / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(ROOT / file, tree / file)
            (tree / "migrations").mkdir()
            (tree / "binaries").mkdir()
            for program in pathlib.Path(os.environ["BINARIES"]).resolve().iterdir():
                if program.is_file() and os.access(program, os.X_OK):
                    (tree / "binaries" / program.name).symlink_to(program)
            plant(tree, path, before, after)
            run = failures(tree, check)
            # 1: tests failed. Anything else (nothing collected, an error in the tests) proves nothing.
            if run.returncode == 1:
                print(f"|{check}|{fault}|", flush=True)
                if os.environ.get("VERBOSE"):
                    print("\n".join(line[:400] for line in run.stdout.splitlines() if "Error" in line), file=sys.stderr, flush=True)
            else:
                unseen.append(f"{check} did not see {fault}: {run.stdout[-300:]}")
    if unseen:
        raise SystemExit("\n".join(unseen))


if __name__ == "__main__":
    main()
