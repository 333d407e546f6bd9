#!/usr/bin/env bash
# All that only a GPU can show, with one command on a machine without a network.
#
#   bash benchmarks/gpu_all.sh --pack DIR     where there is a network: put wheels for that machine into DIR
#   bash benchmarks/gpu_all.sh --wheels DIR   there: make .venv-gpu, install the wheels, measure, write docs/results/gpu.md
#
# --pack takes the Python of the other machine from PYTHON_VERSION (default 3.12), and packages that it lacks from ALSO
# (say ALSO='cupy-cuda13x[ctk] torch'). Further options of the second form go to `python -m benchmarks.gpu_all`:
# --parts, --out, --dry-run (on the stand-in for CuPy). Without --wheels, what is needed must be installed: PYTHON is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NEEDED=(mpich mpi4py numpy rich safetensors threadpoolctl tomli-w ml_dtypes pytest pytest-timeout)
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv-gpu}

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

pack() {
    mkdir -p "$1"
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --quiet --dest "$1" --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform linux_x86_64 \
        "${NEEDED[@]}" ${ALSO:-}
    echo "$1: $(find "$1" -name '*.whl' | wc -l) wheels, $(du -sh "$1" | cut -f1)"
}

install() {
    # The machine's own CuPy and PyTorch are seen from inside; wheels are taken for what is not there.
    "$PYTHON" -m venv --system-site-packages "$VENV"
    "$VENV/bin/python" -m pip install --quiet --no-index --find-links "$1" "${NEEDED[@]}"
    if ! "$VENV/bin/python" -c 'import cupy' 2>/dev/null && compgen -G "$1/cupy_cuda*.whl" >/dev/null; then
        "$VENV/bin/python" -m pip install --quiet --no-index --find-links "$1" "$(basename "$1"/cupy_cuda*.whl | cut -d- -f1)[ctk]"
    fi
    PYTHON=$VENV/bin/python
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    --pack) pack "${2:?--pack wants a folder}"; exit 0 ;;
    --wheels) install "${2:?--wheels wants the folder that --pack has filled}"; shift 2 ;;
esac
exec "$PYTHON" -m benchmarks.gpu_all "$@"
