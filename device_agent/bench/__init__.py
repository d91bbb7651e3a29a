"""Benchmarks on a device: the program, its command and process, one measuring session, its result."""
