"""What is fitted to a model and a sampler, against a fine run from the same starts."""

from denoiselab.samplers.fitting.grids import Grid, GridSearch
from denoiselab.samplers.fitting.local_errors import LocalErrors
from denoiselab.samplers.fitting.nearest_end import NearestEnd

__all__ = ["Grid", "GridSearch", "LocalErrors", "NearestEnd"]
