"""Adapting a supernet, or one network of it, to a user's own classes."""
