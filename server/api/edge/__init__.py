"""The edge of the server: what happens to a request before a route sees it, and how the server is run."""
