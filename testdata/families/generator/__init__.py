"""Writes the tiny checkpoints of testdata/families and what they must compute; see ../make.py."""
