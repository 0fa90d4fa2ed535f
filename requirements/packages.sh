#!/bin/sh
# Installs what is missing of Debian's packages, and removes none.
#
#   packages.sh WANT…   WANT: a package; or PROGRAM=PACKAGE[,PACKAGE…]: the first of them that there is, unless the
#                       program is there, whoever brought it (Docker's own packages conflict with Debian's)
set -eu

missing() {
    for want; do
        case $want in
        *=*) command -v "${want%%=*}" >/dev/null || echo "${want#*=}" ;;
        *) dpkg-query -W -f='${Status}' "$want" 2>/dev/null | grep -q 'ok installed' || echo "$want" ;;
        esac
    done
}

first_known() {
    for package in $(echo "$1" | tr , ' '); do
        apt-cache show "$package" >/dev/null 2>&1 || continue
        echo "$package"
        return
    done
    echo "$package"
}

quietly() { # its output only if it fails
    log=$(mktemp)
    "$@" >"$log" 2>&1 || { tail -n 20 "$log"; rm -f "$log"; exit 1; }
    rm -f "$log"
}

alternatives=$(missing "$@")
[ -n "$alternatives" ] || exit 0
quietly apt-get update -qq
packages=$(for each in $alternatives; do first_known "$each"; done)
echo "installing:" $packages
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
quietly apt-get install -y -qq --no-remove --no-install-recommends $packages
