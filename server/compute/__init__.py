"""Compute jobs: the worker, one job's lease, what each kind of job does, and the exporting process."""
