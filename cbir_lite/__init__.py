"""The survey you can run: compact reference implementations on one bench."""

__version__ = "0.1.0"
