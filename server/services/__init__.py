"""What happens in the service: functions that take a session and values, and raise the errors of `server.errors`.

They know nothing of HTTP, and the caller commits.
"""
