#!/bin/sh
# Makes what a release has: the source, the wheel, and the Debian package for this machine's architecture and PYTHON.
#
#   release.sh TARGET   TARGET: a directory, made if it is not there
#
# PYTHON             the interpreter that they are for (/usr/bin/python3)
# TOOLS              one of the same version, with this package and requirements/build.txt in it (.venv/bin/python)
# SOURCE_DATE_EPOCH  the time of all that is in them (that of the last commit)
set -eu
umask 022

here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
target=$(realpath "$1")
python=${PYTHON:-/usr/bin/python3}
tools=${TOOLS:-$here/.venv/bin/python}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT INT TERM
PYTHON=$python "$here/requirements/wheels.sh" "$wheels"
(cd "$here" && "$tools" -m hatchling build --target sdist --directory "$target")
cp "$wheels"/overlay-*.whl "$target"
PYTHON=$tools "$here/systemd/package/deb.sh" "$target" "$wheels"
