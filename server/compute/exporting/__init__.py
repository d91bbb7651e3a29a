"""Exports apart from the worker: a warm child process runs them, so that a crash ends one export and nothing else.

`order` holds the values that go to the child and back, `work` and `loaded_supernet` what is done there, `child` is the
process, `process` and `exporter` start, watch and end it, `remote_errors` brings errors back, and `served_supernet` is
what a worker knows of a supernet without its weights.
"""
