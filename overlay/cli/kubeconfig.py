"""``overlay kubeconfig``: how kubectl finds this machine's API."""

from __future__ import annotations

from pathlib import Path

import click

from overlay.cli.api import kubeconfig_flag
from overlay.errors import FileError


@click.command()
@kubeconfig_flag
@click.option("--view", is_flag=True, help="The one that may only read.")
def kubeconfig(kubeconfig_file: str, view: bool) -> None:
    """Print the kubeconfig of the API that runs on this machine (overlay api).

    For example: overlay kubeconfig > ~/.kube/overlay; export KUBECONFIG=~/.kube/overlay
    """
    path = Path(f"{kubeconfig_file}-readonly" if view else kubeconfig_file)
    try:
        print(path.read_text(), end="")
    except FileNotFoundError:
        remedy = "start the API (overlay api), or use overlay kubectl, which needs none"
        raise FileError("there is none", about=str(path), remedy=remedy) from None
    except PermissionError:
        raise FileError("you may not read it", about=str(path), remedy="become a member of group overlay") from None
    except OSError as error:
        raise FileError(error.strerror or str(error), about=str(path)) from None
