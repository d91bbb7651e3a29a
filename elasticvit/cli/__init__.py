"""The commands that need no server, a module a subject; `app` collects them."""
