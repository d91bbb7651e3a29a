"""LiteRT files: written, read, checked against torch, with metadata and the delegates that run them."""
