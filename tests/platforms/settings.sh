#!/bin/sh
# Copies this machine's own settings for package indexes (apt, pip, certificates, resolver) into the root of another.
#
#   settings.sh ROOT
set -eu

root=$1
apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries)' >"$root/etc/apt/apt.conf.d/90machine" || true
for file in /etc/apt/auth.conf.d /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/hosts; do
    [ ! -e "$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -aL "$file" "$root$(dirname "$file")/"; }
done
