"""Metrics, and the statistics that they read."""
