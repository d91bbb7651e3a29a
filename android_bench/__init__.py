"""The benchmark program for devices: C sources in `src/`, their build, an adapter for Google's `benchmark_model`."""
