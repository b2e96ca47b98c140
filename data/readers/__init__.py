"""Readers: one module for each data set's published files."""
