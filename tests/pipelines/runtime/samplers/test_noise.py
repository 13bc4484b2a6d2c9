"""Step noise: the same numbers as k-diffusion's Brownian tree, each image its own, and no quiet mistakes."""

import itertools

import numpy as np
import pytest
import torch
import torchsde
from torchsde._brownian import brownian_interval

from pipelines.runtime.noise import seeded
from pipelines.runtime.samplers.brownian import BrownianNoise, BrownianTree, Draw
from pipelines.spec.values import NoiseSource
from tests.pipelines.runtime.samplers.analytic import REFERENCE, SHAPE
from tests.pipelines.runtime.samplers.step_noise import AncestralNoise, NoNoise, on_the_processor

SEEDS = (3, 1234567890123)
LATENTS = torch.zeros(SHAPE)


def brownian(seeds: tuple[int, ...] = SEEDS, *, draw: Draw = on_the_processor) -> BrownianNoise:
    return BrownianNoise(seeds, SHAPE[1:], sigma_min=0.029167, sigma_max=14.614641189575195, draw=draw)


def test_brownian_noise_is_that_of_k_diffusion() -> None:
    data = np.load(REFERENCE)
    source = brownian()

    drawn = [source.noise(LATENTS, *levels) for levels in data["brownian-levels"].tolist()]

    np.testing.assert_allclose(torch.stack(drawn), data["brownian"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("source", ["cpu", "nv"])
def test_a_tree_is_number_for_number_that_of_torchsde(source: NoiseSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A1111 puts its own `randn` for the source in the place of torchsde's."""

    def draw(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
        return seeded(seed, source=source, device=torch.device("cpu"))(shape)

    if source == "nv":
        monkeypatch.setattr(
            brownian_interval, "_randn", lambda size, _dtype, _device, seed: draw(int(seed), tuple(size))
        )
    levels = [round(level, 6) for level in np.geomspace(0.029167, 14.614641, 40).tolist()]
    steps = [*itertools.pairwise(levels), (levels[3], levels[30]), (0.5, 0.500001), (levels[0], levels[-1])]
    theirs = torchsde.BrownianTree(levels[0], torch.zeros(SHAPE[1:]), levels[-1], entropy=SEEDS[1])
    ours = BrownianTree(SEEDS[1], SHAPE[1:], levels[0], levels[-1], draw=draw)

    for low, high in [*reversed(steps), *steps]:
        assert torch.equal(ours.increment(low, high), theirs(low, high))


def test_brownian_noise_of_a_long_step_is_the_sum_of_its_parts() -> None:
    source = brownian()

    whole = source.noise(LATENTS, 9.0, 1.0)

    parts = source.noise(LATENTS, 9.0, 4.0) * 5**0.5 + source.noise(LATENTS, 4.0, 1.0) * 3**0.5
    torch.testing.assert_close(whole * 8**0.5, parts, atol=1e-4, rtol=0)


def test_brownian_noise_has_unit_variance() -> None:
    source = BrownianNoise((1,), (4, 64, 64), sigma_min=0.03, sigma_max=14.6, draw=on_the_processor)

    noise = source.noise(torch.zeros(1, 4, 64, 64), 3.0, 1.0)

    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_an_image_has_the_same_noise_alone_and_in_a_batch() -> None:
    alone = brownian(SEEDS[1:]).noise(LATENTS[:1], 9.0, 1.0)
    ancestral = AncestralNoise([torch.Generator().manual_seed(seed) for seed in SEEDS])
    one = AncestralNoise([torch.Generator().manual_seed(SEEDS[1])])

    assert torch.equal(alone[0], brownian().noise(LATENTS, 9.0, 1.0)[1])
    for _ in range(2):
        assert torch.equal(one.noise(LATENTS[:1], 9.0, 1.0)[0], ancestral.noise(LATENTS, 9.0, 1.0)[1])


@pytest.mark.parametrize(("sigma", "sigma_next"), [(15.0, 1.0), (1.0, 0.01), (1.0, 1.0), (1.0, 2.0)])
def test_a_step_outside_of_the_interval_is_refused(sigma: float, sigma_next: float) -> None:
    with pytest.raises(ValueError, match="does not lie between"):
        brownian().noise(LATENTS, sigma, sigma_next)


def test_levels_that_six_decimals_do_not_tell_apart_have_no_noise_between_them() -> None:
    """The end of a long schedule with a low sigma_min: the way from one to the other adds nothing that shows."""
    assert torch.equal(brownian().noise(LATENTS, 1.0000002, 1.0000001), LATENTS)


def test_another_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="2 images"):
        brownian().noise(LATENTS[:1], 9.0, 1.0)
    with pytest.raises(ValueError, match="1 images"):
        AncestralNoise([torch.Generator()]).noise(LATENTS, 9.0, 1.0)


def test_no_noise_is_never_drawn() -> None:
    with pytest.raises(RuntimeError, match="said to take none"):
        NoNoise().noise(LATENTS, 9.0, 1.0)
