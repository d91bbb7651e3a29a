"""Architectures as frozen values, the spaces that contain them, and the size of these spaces. No torch."""
