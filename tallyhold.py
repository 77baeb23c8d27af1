"""Console entry: one command, whose groups are imported only when they are used.

A router runs `tallyhold collector` without the server's packages installed; billing runs
`tallyhold billing` without the collector's. So nothing below is imported until it is named.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperGroup

GROUPS: Final[dict[str, tuple[str, str, str]]] = {
    # command: (module, Typer app in it, help line)
    "collector": ("collector.cli", "app", "Meter a router: run, check and inspect a collector."),
    "appliance": ("aggregator.cli", "appliance", "Run the appliance; enrol and revoke collectors."),
    "billing": ("aggregator.cli", "billing", "What a subscriber used: volume, sessions, calls."),
    "demand": ("aggregator.cli", "demand", "Busy hours by area, without any subscriber in them."),
    "lookup": ("retention.lookup_cli", "lookup", "Who had an address and port at a time."),
    "faults": ("retention.faults_cli", "faults", "What went wrong on a line; outages."),
    "hold": ("retention.holds.cli", "hold", "Place, approve, check and release legal holds."),
    "purge": ("retention.destruction.cli", "purge", "Destruction: plan, run, certificates."),
    "policy": ("retention.policy.cli", "policy", "How long what is kept, and the public text."),
    "retention": ("retention.cli", "retention", "Run and check the retention service."),
    "safeguard": ("safeguard.cli", "app", "Anonymous block counts: report, ledger and proof."),
    "audit": ("retention.cli", "audit", "Prove, verify and witness the audit log."),
}

_EXTRA: Final = {
    "collector": "collector",
    "aggregator": "aggregator,bundled",
    "retention": "retention",
    "safeguard": "aggregator,collector",
}


def _listing(help_line: str) -> Any:
    """A command that only carries its help line, for the list of commands."""
    shown = typer.Typer(help=help_line, no_args_is_help=True)
    shown.callback()(lambda: None)
    return typer.main.get_command(shown)


class LazyGroup(TyperGroup):
    """A command group that imports a subcommand's module when it is used, not when it is listed."""

    _is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [*GROUPS, *super().list_commands(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._listed():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        with self._listed():
            return super().shell_complete(ctx, incomplete)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        module, name, help_line = GROUPS[cmd_name]
        if self._is_listing:
            command = _listing(help_line)
        else:
            try:
                command = typer.main.get_command(getattr(importlib.import_module(module), name))
            except ModuleNotFoundError as error:
                extra = _EXTRA[module.split(".")[0]]
                raise SystemExit(
                    f"tallyhold {cmd_name}: the package {error.name!r} is missing; "
                    f"install it with: pip install 'tallyhold[{extra}]'"
                ) from error
        command.name = cmd_name
        return command

    @contextmanager
    def _listed(self) -> Iterator[None]:
        self._is_listing = True
        try:
            yield
        finally:
            self._is_listing = False


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    # A traceback with source lines and values is no place for personal data.
    pretty_exceptions_enable=False,
    help="Tallyhold: network usage metering and lawful retention for internet providers.",
)


@app.callback()
def root() -> None:
    """Tallyhold: network usage metering and lawful retention for internet providers."""


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"tallyhold {installed('tallyhold')}")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
