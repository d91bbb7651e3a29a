"""What compute jobs do, a module a kind: search, subnet, calibrate; and what they share."""
