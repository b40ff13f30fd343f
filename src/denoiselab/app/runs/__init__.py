"""Runs: their directories (`run_directory`, `run_id`, `names`, `sweep`), paths, devices, and errors from outside."""
