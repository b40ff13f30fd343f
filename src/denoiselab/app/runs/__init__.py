"""Runs: their directories (`run_directory`, `run_id`, `names`), paths, devices, and errors from outside."""
