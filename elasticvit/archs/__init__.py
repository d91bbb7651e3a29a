"""Architectures as frozen values, the spaces that they are members of, and how many members there are. No torch."""
