#!/usr/bin/env bash
# `make chart-test`: the chart and the image, checked without a cluster and without Docker. BIN holds the services' binaries.
# Usage: helm/tests/run.sh BIN [pytest's arguments]; BLESS=1 writes the goldens anew.
set -euo pipefail
cd "$(dirname "$0")/../.."

BINARIES=$(cd "$1" && pwd)
shift
FIRSTCOME_TOOLS=$(helm/tests/tools.sh)
export BINARIES FIRSTCOME_TOOLS PYTHONDONTWRITEBYTECODE=1
exec "$FIRSTCOME_TOOLS/python/bin/python" -m pytest -q -p no:cacheprovider helm/tests "$@"
