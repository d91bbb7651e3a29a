"""Compute jobs: the worker, the lease of a job, the work of every kind of job, and the exporting process."""
