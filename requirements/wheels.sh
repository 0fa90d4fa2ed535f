#!/bin/sh
# Makes wheels of the package and of all that it needs, as run.txt names them: from these `make install WHEELS=TARGET`
# needs no package index.
#
#   wheels.sh TARGET   TARGET: a directory, made if it is not there
#
# PYTHON  the interpreter that they are for (/usr/bin/python3)
set -eu

target=$1
here=$(cd "$(dirname "$0")" && pwd)

builder=$(mktemp -d)
trap 'rm -rf "$builder"' EXIT
[ -d "${HOME:-/}" ] || export HOME="$builder" # nobody's is made
"${PYTHON:-/usr/bin/python3}" -m venv "$builder"
pip() { "$builder/bin/pip" "$@" --quiet --disable-pip-version-check; }

# Without isolation: in it pip would fetch what builds a wheel as well, in whatever version there is.
pip install --require-hashes --only-binary :all: --requirement "$here/build.txt"
pip wheel --require-hashes --no-build-isolation --use-pep517 --wheel-dir "$target" --requirement "$here/run.txt"
pip wheel --no-deps --no-build-isolation --wheel-dir "$target" "$here/.."
