"""Fine-tuning of a supernet, or of one of its networks, to other classes."""
