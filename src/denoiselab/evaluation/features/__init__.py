"""Extractors of features."""
