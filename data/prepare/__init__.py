"""Preparation of a data set: check it, tabulate it, and keep the videos worth training on."""
