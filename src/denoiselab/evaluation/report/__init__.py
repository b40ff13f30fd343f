"""Frontiers as text and pictures (`tables`, `plane`) and as one HTML page (`page`)."""
