"""Run directories, paths and devices."""
