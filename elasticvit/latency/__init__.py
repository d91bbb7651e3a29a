"""Latency of any architecture on one device profile, predicted from its measurements. No torch.

`profile` and `alignment` turn operator profiles into block times. `fit` makes a `predictor` from these and from whole
networks (`rows`), with `prior`, `nnmeter` and `calibration`. `normalise` has the quantiles and the stability of a
session, `probes` chooses the networks to measure.
"""
