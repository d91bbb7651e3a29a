"""`elasticvit demo`: the whole loop once against a server of its own."""
