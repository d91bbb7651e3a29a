"""The routes: each parses a request, calls one service, and returns its answer. Shared dependencies are in `deps`."""
