"""Side-by-side measurements; each module is `python -m benchmarks.NAME [--quick]`."""
