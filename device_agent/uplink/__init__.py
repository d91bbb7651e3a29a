"""The side of the agent that faces the server: calls, registration, the spool of reports, the cache of files."""
