"""Accuracy of sub-networks: evaluated, stored in accuracy tables, predicted. No torch in value, table, predictor."""
