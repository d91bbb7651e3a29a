"""The `elasticvit` script: the commands of a server and the client's."""
