"""The commands that need no server, one module per subject; `app` collects them."""
