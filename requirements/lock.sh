#!/bin/sh
# Locks all that is installed from a package index, by version and hash, for every Python that pyproject.toml admits:
# what `make lock` runs, after a change of pyproject.toml or for newer versions.
#
#   build.txt   what builds our wheel, and wheels of what comes as source
#   run.txt     what the command needs: `make demo`, `make install`, `make release`
#   dev.txt     that and what checks it: `make test`
#   clients.txt clients of the API, to be tested with and not depended on: `make test-clients`
#   lowest.txt  what runs and tests it, each version that pyproject.toml names at its lowest: `make lowest`
#
# Pins never come from two of these in different versions: dev.txt binds the others.
set -eu
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
[ -d "${HOME:-/}" ] || export HOME="$tools" # nobody's is made
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.13'

lock() { # lock TARGET ARGUMENT…
    target=requirements/$1
    shift
    # One version for all Pythons, so that what is tested on one is what runs on another.
    "$tools/bin/uv" --no-config pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-annotate --custom-compile-command 'make lock' --output-file "$target" "$@"
}

lock dev.txt --all-extras pyproject.toml
lock run.txt --constraints requirements/dev.txt pyproject.toml
lock lowest.txt --extra tests --resolution lowest-direct pyproject.toml
printf '%s\n' kubernetes lightkube kr8s >"$tools/clients.in"
lock clients.txt "$tools/clients.in"
# setuptools and wheel: for etcd3, which is published as source alone; editables: for `pip install -e`.
printf '%s\n' 'hatchling>=1.26' editables setuptools wheel >"$tools/build.in"
lock build.txt --constraints requirements/dev.txt "$tools/build.in"
