import pytest
import torch
from published.ncsn import DEEPER, DEEPEST, PLAIN, network
from published.weights import Shapes, Weights

from denoiselab.denoiser import Denoiser
from denoiselab.interop import InteropError
from denoiselab.interop.ncsn import Checkpoint, ncsn_layout
from denoiselab.networks import NCSN, NCSNv2
from denoiselab.nodes.instantiate import construct

CASES = {"ncsn": (PLAIN, 10), "ncsnv2": (PLAIN, None), "deeper": (DEEPER, None), "deepest": (DEEPEST, None)}


def made(levels, noise_levels, weights=None, ngf=4, channels=2, size=16):
    weights = Weights() if weights is None else weights
    y = None if noise_levels is None else torch.zeros(1, dtype=torch.long)
    network(weights, ngf, levels, torch.zeros(1, channels, size, size), y, noise_levels)
    return weights


@pytest.mark.parametrize("name", CASES)
def test_an_import_is_their_score(name, tmp_path):
    levels, noise_levels = CASES[name]
    state = made(levels, noise_levels)
    sigmas = torch.logspace(0, -2, noise_levels or 7)  # 1 to 0.01, the noisiest first
    tensors = {f"module.{key}": tensor for key, tensor in state.items()}
    if noise_levels is None:
        tensors["module.sigmas"] = sigmas
    shadow = {key: tensor + 1 for key, tensor in state.items()}
    torch.save([tensors, {}, 3, 4, shadow] if noise_levels is None else [tensors, {}], tmp_path / "checkpoint.pth")
    imported = Checkpoint(str(tmp_path / "checkpoint.pth"), image_size=16).read()
    model = imported.layout.module(**imported.layout.options)
    model.load_state_dict(imported.weights)
    nodes = (imported.schedule, imported.parameterization, imported.denoiser["time_label"])
    denoiser = Denoiser(model.eval(), *(construct(node, "import") for node in nodes))
    x = torch.rand(3, 2, 16, 16)
    for place in (0, 3, len(sigmas) - 1):
        level = denoiser.schedule.level(torch.tensor((len(sigmas) - place) / len(sigmas), dtype=torch.float64))
        y = None if noise_levels is None else torch.full((3,), place)
        with torch.no_grad():
            score = network(Weights(state), 4, levels, 2 * x - 1, y, noise_levels)
            score = score if noise_levels else score / sigmas[place]
            # x and sigma are twice as large here, so that the noise is the same.
            eps = denoiser(2 * x - 1, level).eps
        assert float(level.sigma) == pytest.approx(2 * float(sigmas[place]), rel=1e-5)
        expected = -sigmas[place] * score
        assert (eps - expected).abs().max() <= 2e-5 * expected.std()
    back = imported.layout.to_theirs(imported.weights)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    if noise_levels is None:
        average = imported.layout.to_theirs(imported.averages["ema"])
        assert all(torch.equal(average[key], tensor) for key, tensor in shadow.items())


@pytest.mark.parametrize(
    ("name", "ngf", "size", "count"),
    [
        ("ncsn", 128, 32, 30_117_635),
        ("ncsnv2", 128, 32, 29_694_083),
        ("deeper", 128, 128, 83_445_379),
        ("deepest", 128, 256, 94_132_611),
    ],
)
def test_networks_have_the_published_names_and_sizes(name, ngf, size, count, tmp_path):
    """Of the networks for CIFAR-10, LSUN and FFHQ; the counts are those of the published layouts."""
    levels, noise_levels = CASES[name]
    shapes = Shapes()
    with torch.device("meta"):
        made(levels, noise_levels, shapes, ngf, 3, size)
        state = {key: torch.empty(shape) for key, shape in shapes.shapes.items()}
        layout = ncsn_layout(state, tmp_path, size)
        skeleton = layout.skeleton()
    assert {key: tensor.shape for key, tensor in layout.to_theirs(skeleton).items()} == shapes.shapes
    assert sum(tensor.numel() for tensor in skeleton.values()) == count
    assert layout.module is (NCSN if noise_levels else NCSNv2)


def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "checkpoint.pth"
    source = Checkpoint(str(path), image_size=16)
    with pytest.raises(InteropError, match="no such file"):
        source.read()
    torch.save({"model": {}}, path)
    with pytest.raises(InteropError, match="not a checkpoint of ncsn or ncsnv2"):
        source.read()
    state = dict(made(PLAIN, None))
    torch.save([state, {}], path)
    with pytest.raises(InteropError, match="lacks 'sigmas'"):
        source.read()
    del state["refine2.crp.convs.0.weight"]
    torch.save([state, {}], path)
    with pytest.raises(InteropError, match=r"it lacks 'refine2.crp.convs.0.weight'"):
        source.read()
