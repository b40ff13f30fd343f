"""Checks of the contract of parts, by which this package tests its own, for the tests of a user's.

    def test_my_sampler():
        check_sampler(MySampler(Asinh(), steps=20))

Each raises AssertionError with a sentence. Nothing here imports pytest; all of it runs on the CPU within seconds.
"""

from denoiselab.testing.data import check_data
from denoiselab.testing.metrics import check_metric
from denoiselab.testing.networks import check_network
from denoiselab.testing.samplers import check_sampler
from denoiselab.testing.schedules import check_schedule

__all__ = ["check_data", "check_metric", "check_network", "check_sampler", "check_schedule"]
