"""Every cost that adds up over blocks: MACs, parameters, levels of cost, sampling within a band of cost. No torch."""
