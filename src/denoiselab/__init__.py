"""denoiselab: train diffusion models; learn which sampler, at how many network calls, gives which score.

    import denoiselab

    model = denoiselab.load("logs/digits/<run id>")
    images = model.sample(denoiselab.sampler("dpmpp_2m", steps=20), 16, seed=0)

The import is light: what a name needs is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoiselab import analytic as analytic
    from denoiselab.choices import build as build
    from denoiselab.choices import guider as guider
    from denoiselab.choices import names as names
    from denoiselab.choices import network as network
    from denoiselab.choices import objective as objective
    from denoiselab.choices import sampler as sampler
    from denoiselab.choices import schedule as schedule
    from denoiselab.choices import spacing as spacing
    from denoiselab.classifiers import load_classifier as load_classifier
    from denoiselab.exact_models import exact as exact
    from denoiselab.guidance import Guidance as Guidance
    from denoiselab.model import Model as Model
    from denoiselab.networks.conditioning import Conditioning as Conditioning
    from denoiselab.noise import BrownianNoise as BrownianNoise
    from denoiselab.noise import Noise as Noise
    from denoiselab.pretrained import load as load
    from denoiselab.scoring import score as score

__version__ = "0.1.0"

_HOMES = {
    "BrownianNoise": "noise",
    "Conditioning": "networks.conditioning",
    "Guidance": "guidance",
    "Model": "model",
    "Noise": "noise",
    "build": "choices",
    "exact": "exact_models",
    "guider": "choices",
    "load": "pretrained",
    "load_classifier": "classifiers",
    "names": "choices",
    "network": "choices",
    "objective": "choices",
    "sampler": "choices",
    "schedule": "choices",
    "score": "scoring",
    "spacing": "choices",
}

__all__ = [
    "BrownianNoise",
    "Conditioning",
    "Guidance",
    "Model",
    "Noise",
    "analytic",
    "build",
    "exact",
    "guider",
    "load",
    "load_classifier",
    "names",
    "network",
    "objective",
    "sampler",
    "schedule",
    "score",
    "spacing",
]


if not TYPE_CHECKING:  # a checker would take every name for one of the package's

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is first used."""
        if name == "analytic":
            return importlib.import_module("denoiselab.analytic")
        if name not in _HOMES:
            raise AttributeError(f"module 'denoiselab' has no attribute '{name}'; it has: {', '.join(__all__)}.")
        value = getattr(importlib.import_module(f"denoiselab.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted([*__all__, "__version__"])
