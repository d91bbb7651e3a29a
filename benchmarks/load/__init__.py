"""How the service holds under load, against a bare FastAPI app beside it: `make load`, or `python -m benchmarks.load`.

The bare app (`bare`) checks the same tokens and does one indexed SELECT, one INSERT or one UPDATE on the same database,
under the same server settings. Both run in turns, in several rounds of one run, so that what else the machine does
disturbs both alike: the ratios are the figures, not the requests a second.
"""
