"""The tasks of sample.py."""
