"""Images with labels: sets by name or folder, decoded once and mapped into memory."""
