"""The HTTP application: routes, error handlers, middleware, metrics."""
