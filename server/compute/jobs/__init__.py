"""What compute jobs do, one module per kind (search, subnet, calibrate, convert), and what they share."""
