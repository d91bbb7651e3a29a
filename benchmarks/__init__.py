"""Figures that the README claims, each as a ratio against a peer in the same run: `make bench`."""
