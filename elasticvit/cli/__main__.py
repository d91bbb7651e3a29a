"""`python -m elasticvit.cli`: the commands that need no server."""

from elasticvit.cli.app import app
from elasticvit.cli.console import escape_unprintable

if __name__ == "__main__":
    escape_unprintable()
    app()
