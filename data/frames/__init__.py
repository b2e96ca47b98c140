"""Frames: images and video files as arrays, decoded once on a node."""
