#!/bin/sh
# Makes .venv with the pinned packages and gradq itself, without root and without touching the system's Python.
# Says what is missing and how to get it, before anything is half done.
#
#   sh scripts/install.sh          what gradq needs to run
#   sh scripts/install.sh dev      tests and checks too
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
venv=.venv
log=$venv/install.log

fail() {
    for line in "$@"; do printf 'gradq: %s\n' "$line" >&2; done
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 && new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    if command -v python3 >/dev/null 2>&1; then
        fail "needs Python 3.11 or newer, and python3 is $(python3 -V 2>&1 | cut -d' ' -f2)." \
            "Install a newer one (Debian 12 and Ubuntu 24.04 have it: apt install python3), or name it: make PYTHON=/path/to/python3"
    fi
    fail "python3 is missing; gradq needs Python 3.11 or newer." \
        "Debian, Ubuntu: apt install python3 python3-venv    Fedora: dnf install python3    macOS: brew install python"
}

make_venv() {
    if "$1" -c 'import venv, ensurepip' 2>/dev/null; then
        "$1" -m venv --clear "$venv"
    elif "$1" -c 'import venv' 2>/dev/null && "$1" -m pip --version >/dev/null 2>&1; then
        # Debian keeps ensurepip in python3-venv; a pip from 22.3 on can fill a venv from outside
        "$1" -m venv --clear --without-pip "$venv"
        "$1" -m pip --python "$venv/bin/python" --log "$log" install --quiet pip || pip_failed
    elif "$1" -c 'import venv' 2>/dev/null; then
        fail "Python's ensurepip and pip are both missing, so no virtual environment can be filled." \
            "Debian, Ubuntu: apt install python3-venv    Fedora: dnf install python3-pip"
    else
        fail "Python's venv module is missing." \
            "Debian, Ubuntu: apt install python3-venv    Fedora: dnf install python3"
    fi
}

pip_failed() {
    if grep -qE 'NewConnectionError|NameResolutionError|name resolution|ConnectTimeout|Network is unreachable|Connection refused|ProxyError' "$log"; then
        fail "the package index cannot be reached: is there a network?" \
            "Behind a proxy, set HTTPS_PROXY; with a mirror, PIP_INDEX_URL. What was tried is in $log"
    fi
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full; PyTorch needs about 1 GB, its CUDA build about 6 GB."
    fi
    fail "pip could not install the packages; its messages are above and in $log"
}

python=$(find_python)
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "gradq: making $venv with $python"
    make_venv "$python"
fi
echo "gradq: installing the pinned packages (PyTorch is large; the first time takes minutes)"
rm -f "$log"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar on --log "$log" \
    -c constraints.txt -e ".[server${extra:+,$extra}]" || pip_failed
if [ "$extra" = dev ]; then  # without its own pins: it asks for an older typer, and runs on ours as well
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --log "$log" \
        --no-deps -c constraints.txt openapi-python-client || pip_failed
fi
echo "gradq: installed; the command is $venv/bin/gradq"
