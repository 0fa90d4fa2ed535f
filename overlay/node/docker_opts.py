"""Docker's options from ``subnet.env``, as flannel's mk-docker-opts.sh (dist/mk-docker-opts.sh) makes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from overlay.errors import NodeError

_PREFIX = "DOCKER_OPT_"

_DOCKER_MASQUERADES = {"true": "--ip-masq=false", "false": "--ip-masq=true"}
"""By FLANNEL_IPMASQ: exactly one of the agent and Docker has to masquerade."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the output should have in it; neither form asked for means both, as in the script.

    Attributes:
        individual: one variable an option (``-i``).
        combined: all options in one variable (``-c``).
        key: name of that variable (``-k``).
        ip_masq: with ``--ip-masq``; False for a Docker that does not know it (``-m``).
    """

    individual: bool = False
    combined: bool = False
    key: str = "DOCKER_OPTS"
    ip_masq: bool = True


def render(variables: Mapping[str, str], form: Form, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """The environment file for Docker.

    Args:
        variables: those of the environment, overridden by subnet.env's. Besides ``FLANNEL_*`` they count where they
            are named ``DOCKER_OPT_…`` (one more option each) or like the combined key (options to put in front).
        environment: variables that Docker is to have besides.

    Raises:
        NodeError: FLANNEL_IPMASQ is neither true nor false.
    """
    options = {name: value for name, value in variables.items() if name.startswith(_PREFIX)}
    if subnet := variables.get("FLANNEL_SUBNET"):
        options["DOCKER_OPT_BIP"] = f"--bip={subnet}"
    if mtu := variables.get("FLANNEL_MTU"):
        options["DOCKER_OPT_MTU"] = f"--mtu={mtu}"
    if form.ip_masq and (ip_masq := variables.get("FLANNEL_IPMASQ")):
        if ip_masq not in _DOCKER_MASQUERADES:
            raise NodeError(f"Invalid value of FLANNEL_IPMASQ: {ip_masq}", remedy="it must be true or false")
        options["DOCKER_OPT_IPMASQ"] = _DOCKER_MASQUERADES[ip_masq]

    lines = []
    both = form.individual == form.combined
    if form.individual or both:
        lines += [f'{name}="{options[name]}"' for name in sorted(options)]
    if form.combined or both:
        before = variables.get(form.key, "")
        combined = (f"{before} " if before else "") + "".join(f" {options[name]}" for name in sorted(options))
        lines.append(f'{form.key}="{combined}"')
    lines += [f'{name}="{environment[name]}"' for name in sorted(environment)]
    return "".join(f"{line}\n" for line in lines)
