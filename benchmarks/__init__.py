"""Speed and memory, always as ratios within one run: `python -m benchmarks.NAME`, from the repository's root."""
