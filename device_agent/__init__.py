"""The agent: leases measuring jobs from the server, does them on the devices of this machine, reports. See `loop`."""
