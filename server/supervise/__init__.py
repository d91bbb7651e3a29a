"""`elasticvit up`: server, worker and agent as one service."""
