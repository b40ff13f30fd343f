"""What is fitted to a model and a sampler, against a fine run from the same starts."""

from denoiselab.samplers.fitting.fit import SolverFit
from denoiselab.samplers.fitting.fitted import Fitted
from denoiselab.samplers.fitting.gits import GITS
from denoiselab.samplers.fitting.grids import Grid, GridSearch
from denoiselab.samplers.fitting.local_errors import LocalErrors
from denoiselab.samplers.fitting.nearest_end import NearestEnd
from denoiselab.samplers.fitting.solvers import Solver, solver_of

__all__ = ["GITS", "Fitted", "Grid", "GridSearch", "LocalErrors", "NearestEnd", "Solver", "SolverFit", "solver_of"]
