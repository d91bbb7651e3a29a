"""The agent beside the devices: leases measuring jobs from the server, does them, reports. See `loop`."""
