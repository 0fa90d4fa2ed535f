"""The manual page, made from the commands."""

from __future__ import annotations

import click

from overlay.cli.main import cli
from overlay.cli.manpage import render


@click.group()
def tool() -> None:
    """Do things.

    .It begins with a dot, has a back\\slash and a "quote".
    """


@tool.command()
@click.option("--dry-run", is_flag=True, help="Only say what…")
@click.option("--secret", hidden=True, help="not shown")
@click.argument("target")
def act(dry_run: bool, secret: str, target: str) -> None:
    """Act on TARGET.

    \b
    kept
    lines
    \f
    not for people
    """


@tool.command(hidden=True)
def internal() -> None:
    """Not shown."""


def test_text_is_no_markup() -> None:
    page = render(tool, "tool")
    assert "\\&.It begins with a dot, has a back\\eslash and a \\(dqquote\\(dq." in page
    assert "\\fB\\-\\-dry\\-run\\fR" in page
    assert "Only say what..." in page


def test_what_is_hidden_stays_hidden() -> None:
    page = render(tool, "tool")
    for absent in ("secret", "internal", "not for people"):
        assert absent not in page


def test_every_command_of_ours_is_there_with_its_flags() -> None:
    page = render(cli, "overlay")
    for name in cli.list_commands(click.Context(cli)):
        assert f'.SS "overlay {name}'.replace("-", "\\-") in page
    assert "\\-\\-ip\\-masq" in page
    assert page.startswith(".TH OVERLAY 8 ")
