#!/bin/sh
# Installs the agent on this node, or removes it: what `make install` and `make uninstall` run.
#
#   install.sh install     needs a package index (or WHEELS) now, and no network ever after
#   install.sh uninstall   removes all that install made, the settings, and what the agent made on this node
#
# What the Debian package is made of (systemd/package/), and does on a node:
#
#   install.sh files         all of install but /opt/overlay; the texts by PYTHON, which has the package in it
#   install.sh environment   /opt/overlay alone, from WHEELS, and a restart of an agent that runs
#   install.sh retire        all of uninstall but what `files` put there
#
# DESTDIR  stage into this directory instead; nothing outside it is touched, nothing is started
# PREFIX   where unit files, man page, completions and the link to the command go (/usr/local)
# PYTHON   the interpreter to build on (/usr/bin/python3), 3.11 or later
# WHEELS   a directory of wheels: install from these alone, without an index
# MEND     what to run again when the interpreter has gone, with an upgrade of the distribution (make -C … install)
# FORCE    1: uninstall although `overlay cleanup` failed
set -eu

action=${1:-}
source=$(cd "$(dirname "$0")/.." && pwd)
destdir=${DESTDIR:+$(realpath -m -- "$DESTDIR")}
[ "$destdir" != / ] || destdir=
prefix=${PREFIX:-/usr/local}
python=${PYTHON:-/usr/bin/python3}

venv=/opt/overlay
settings=/etc/default/overlay
units=$prefix/lib/systemd/system
command=$prefix/bin/overlay
mend=${MEND:-make -C $source install}
manpage=$prefix/share/man/man8/overlay.8
bash_completion=$prefix/share/bash-completion/completions/overlay
zsh_completion=$prefix/share/zsh/site-functions/_overlay
fish_completion=$prefix/share/fish/vendor_completions.d/overlay.fish

say() { printf '%s\n' "$*"; }

fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

systemd_runs() { [ -z "$destdir" ] && [ -d /run/systemd/system ]; }

check() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is missing or older than 3.11; name another with PYTHON="
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments; apt-get install python3-venv"
    # By its version's name: /usr/bin/python3 is another one after an upgrade of the distribution, and this one may stay.
    python=$(readlink -f "$(command -v "$python")")
    case $python in
    /home/* | /root/* | /run/user/*) fail "the service cannot see $python (ProtectHome=); name another with PYTHON=" ;;
    esac
    parent=$destdir$(dirname "$venv")
    mkdir -p "$parent" 2>/dev/null || true
    [ -w "$parent" ] || fail "cannot write to $parent; run as root or set DESTDIR="
}

# The new environment is built beside the old one and takes its place only when it is whole, so a failure in the middle
# changes nothing, and a running agent never sees half of each.
build_venv() {
    new=$destdir$venv.new
    rm -rf "$new"
    trap 'rm -rf "$new"' EXIT INT TERM
    wheels=${WHEELS:-}
    if [ -z "$wheels" ]; then
        wheels=$new/wheels
        PYTHON=$python "$source/requirements/wheels.sh" "$wheels"
    fi
    (
        [ -d "${HOME:-/}" ] || export HOME="$new/wheels" # nobody's is made
        "$python" -m venv "$new"
        "$new/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$wheels" overlay
    )
    rm -rf "$new/wheels"
}

# What /opt/overlay/bin/overlay is: the command, as long as there is the interpreter that all of it was installed for.
put_launcher() {
    cat >"$new/bin/overlay" <<EOF
#!/bin/sh
python=$venv/bin/python
if ! [ -x "\$python" ]; then
    echo "overlay: the Python that it was installed for, $python, is not there any more; run: $mend" >&2
    exit 1
fi
exec "\$python" -P -m overlay "\$@"
EOF
}

# Its scripts name the interpreter by the path they were made at.
relocate_venv() {
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | while read -r file; do
        sed -i "s|$new|$venv|g" "$file"
    done
}

swap_venv() {
    rm -rf "$destdir$venv.old"
    [ ! -d "$destdir$venv" ] || mv "$destdir$venv" "$destdir$venv.old"
    mv "$new" "$destdir$venv"
    trap - EXIT INT TERM
    rm -rf "$destdir$venv.old"
}

put() { # put SOURCE TARGET: a file, mode 0644
    mkdir -p "$(dirname "$destdir$2")"
    install -m 0644 "$1" "$destdir$2"
}

# Man page and completions come out of the commands themselves.
put_texts() { # put_texts PYTHON
    texts=$(mktemp -d)
    trap 'rm -rf "$texts"' EXIT INT TERM
    "$1" -P -m overlay.cli.manpage >"$texts/overlay.8"
    put "$texts/overlay.8" "$manpage"
    for shell in bash zsh fish; do
        _OVERLAY_COMPLETE=${shell}_source "$1" -P -m overlay >"$texts/$shell"
    done
    put "$texts/bash" "$bash_completion"
    put "$texts/zsh" "$zsh_completion"
    put "$texts/fish" "$fish_completion"
    rm -rf "$texts"
    trap - EXIT INT TERM
}

put_files() { # put_files PYTHON: all but /opt/overlay; PYTHON has the package in it
    put_texts "$1"
    mkdir -p "$destdir$prefix/bin"
    ln -sfn "$venv/bin/overlay" "$destdir$command"
    for unit in overlay.service overlay-docker.path overlay-docker.service overlay-services.service overlay-api.service; do
        put "$source/systemd/$unit" "$units/$unit"
    done
    put "$source/systemd/docker.conf" "$units/docker.service.d/overlay.conf"
    [ -e "$destdir$settings" ] || put "$source/systemd/overlay.default" "$settings"
}

put_environment() {
    say "installing into $destdir$venv ..."
    build_venv
    relocate_venv
    put_launcher
    swap_venv
}

activate() {
    if systemd_runs; then
        systemctl daemon-reload
        # What an older version's unit was enabled by.
        ! systemctl --quiet is-enabled overlay.service 2>/dev/null || systemctl --quiet reenable overlay.service
        # An upgrade: traffic goes on while the agent restarts. That may wait for etcd, and this must not.
        systemctl --no-block try-restart overlay.service overlay-services.service overlay-api.service
    fi
    say "installed $("$destdir$venv/bin/python" -c 'import overlay; print("overlay", overlay.__version__)')"
    if ! systemd_runs || ! systemctl --quiet is-active overlay.service; then
        say "next: edit $settings, then: systemctl enable --now overlay"
    fi
}

refuse_beside_the_package() {
    [ -n "$destdir" ] || [ ! -e /usr/lib/overlay/install.sh ] ||
        fail "the Debian package is installed here; apt-get remove overlay, and try again"
}

do_install() {
    refuse_beside_the_package
    check
    put_environment
    put_files "$destdir$venv/bin/python"
    activate
}

do_files() {
    [ -n "$destdir" ] || fail "set DESTDIR="
    put_files "$python"
}

do_environment() {
    [ -n "${WHEELS:-}" ] || fail "set WHEELS="
    check
    put_environment
    activate
}

# What the agent made goes while the tool is there, or nothing does.
retire_agent() {
    if systemd_runs; then
        systemctl --quiet stop overlay-docker.path 2>/dev/null || true
        systemctl --quiet disable --now overlay-api.service overlay-services.service overlay.service overlay-docker.path 2>/dev/null || true
    fi
    if [ -z "$destdir" ] && [ -x "$venv/bin/overlay" ]; then
        # What the agent made has the names that its settings gave it.
        set -- cleanup
        [ ! -e "$settings" ] || set -- --settings "$settings" cleanup
        "$venv/bin/overlay" "$@" || [ "${FORCE:-}" = 1 ] ||
            fail "not uninstalled, since overlay cleanup, see above, is needed for it; mend it and try again, or set FORCE=1"
    fi
}

remove_files() {
    for file in "$command" "$manpage" "$bash_completion" "$zsh_completion" "$fish_completion" "$settings" \
        "$units/overlay.service" "$units/overlay-docker.path" "$units/overlay-docker.service" \
        "$units/overlay-services.service" "$units/overlay-api.service" "$units/docker.service.d/overlay.conf"; do
        rm -f "$destdir$file"
    done
    rmdir "$destdir$units/docker.service.d" 2>/dev/null || true
}

remove_environment() {
    rm -rf "$destdir$venv" "$destdir$venv.new" "$destdir$venv.old"
    if [ -z "$destdir" ]; then
        rm -rf /var/lib/overlay /var/lib/private/overlay /run/overlay
        rm -f /run/flannel/docker /run/flannel/docker.next
        rmdir /run/flannel /sys/fs/bpf/overlay 2>/dev/null || true
    fi
    if systemd_runs; then
        systemctl daemon-reload
        if systemctl --quiet is-active docker.service; then
            # docker0's addresses are stored (libnetwork's bridge driver): only another --bip changes them.
            say "Docker keeps the old subnet, also when it is restarted. To give it its own again:"
            say "  systemctl set-environment DOCKER_OPTS=--bip=172.17.0.1/16"
            say "  systemctl restart docker"
            say "  systemctl unset-environment DOCKER_OPTS"
        fi
    fi
}

do_uninstall() {
    refuse_beside_the_package
    retire_agent
    remove_files
    remove_environment
    say "removed"
}

do_retire() {
    retire_agent
    remove_environment
}

case $action in
install) do_install ;;
uninstall) do_uninstall ;;
files) do_files ;;
environment) do_environment ;;
retire) do_retire ;;
*) fail "usage: $0 install|uninstall|files|environment|retire" ;;
esac
