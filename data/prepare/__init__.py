"""Preparation of a data set: check it, tabulate it, and choose the videos to train on."""
