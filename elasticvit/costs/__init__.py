"""Costs that are sums over blocks: MACs, parameters, cost tables, levels and sampling within a band. No torch."""
