"""Data sets: from the files of a benchmark to samples, masks and frames."""
