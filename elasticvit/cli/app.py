"""The commands that need no server. `app` is mounted by the `elasticvit` script.

Exit status: see `elasticvit.cli.console`.
"""

import typer

from elasticvit.cli import describe, export, recipes, spaces, supernets, train

app = typer.Typer(no_args_is_help=True, add_completion=False)
for module in (spaces, export, describe, recipes, train, supernets):
    app.registered_commands += module.app.registered_commands
