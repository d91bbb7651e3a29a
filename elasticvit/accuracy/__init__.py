"""Accuracy of sub-networks: evaluated, kept in a table, predicted from it. No torch in table and predictor."""
