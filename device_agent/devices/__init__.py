"""The side of the agent that faces the devices: what a device is, and this machine as one."""
