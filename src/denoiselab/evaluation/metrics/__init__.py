"""Metrics, one file each; `collected` and `statistics` gather what they read, `standard_errors` what they share."""
