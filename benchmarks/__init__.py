"""The figures of docs/figures.md, each as a ratio against a peer in the same run: `make bench`."""
