"""Masks on disk: stores that make targets, and lazy masks that are read on demand."""
