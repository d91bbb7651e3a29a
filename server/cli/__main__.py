"""`python -m server.cli`: the `elasticvit` script by its module, as the supervisor starts it."""

from server.cli.main import main

if __name__ == "__main__":
    main()
