"""Exports apart from the worker: a warm child process does them, so that what kills an export kills nothing else.

`order` is what travels to the child and back, `work` what is done there, `child` the process, `exporter` the side that
starts, watches and ends it, `crossing` how errors get across, `key` under what a finished export is found again.
"""
