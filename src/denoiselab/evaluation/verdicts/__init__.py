"""Which cell is better, and how sure that is: comparisons of scores whose samples share their noise."""

from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.verdicts.compare import Comparison, Estimate, compare

__all__ = ["Comparison", "Estimate", "Influences", "compare"]
