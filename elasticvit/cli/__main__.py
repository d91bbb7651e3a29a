"""`python -m elasticvit.cli`: the commands that need no server."""

from elasticvit.cli.app import app

if __name__ == "__main__":
    app()
