"""Checkpoints of the paper's authors (microsoft/Moonlit): names, reading without unpickling, import."""
