"""Devices: what the agent needs of one, where they come from, and this machine as a device."""
