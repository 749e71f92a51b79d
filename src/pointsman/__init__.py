"""Pointsman: policies in plain words decide which model does which work."""

__version__ = "0.1.0"
