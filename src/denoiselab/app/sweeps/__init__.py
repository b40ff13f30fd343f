"""Sweeps: their record on the disk (`records`), the writing of it (`results`), the table at the end (`table`).

What is known of a sweep is in its directory: `sweep.json` is written before the first job, and each job writes its own
`result.json`. Tables are built from these files, whichever launcher has started the jobs.
"""
