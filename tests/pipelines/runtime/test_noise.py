"""The three sources of noise, variations, sizes and deltas of a seed."""

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.runtime.noise import BatchNoise, ImageNoise, slerp
from pipelines.runtime.philox import PhiloxGenerator, philox4x32
from pipelines.runtime.sampling import step_noise
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.schedulers import SCHEDULERS
from tests.pipelines.spec.conftest import make_model

CPU = torch.device("cpu")
SHAPE = (1, 4, 64, 64)


def noise(**fields: Any) -> ImageNoise:
    return ImageNoise(resolve(GenerationRequest(**{"seed": 7, **fields}), make_model())[0], device=CPU)


def seeded(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: list[int], key: tuple[int, int], words: list[int]
) -> None:
    """Random123, kat_vectors: philox4x32, 10 rounds."""
    assert philox4x32(np.array(counter, dtype=np.uint32)[:, None], key)[:, 0].tolist() == words


def test_nv_noise_is_what_a_card_draws() -> None:
    """torch.manual_seed(0); torch.randn(3, 4, device="cuda"), as printed in torch's forum and issues."""
    expected = [
        [-0.9247, -0.4253, -2.6438, 0.1452],
        [-0.1209, -0.5797, -0.6229, -0.3284],
        [-1.0745, -0.3631, -1.6711, 2.2655],
    ]
    np.testing.assert_allclose(PhiloxGenerator(0).randn((3, 4)), expected, atol=5e-5)


def test_nv_noise_is_normal_and_goes_on() -> None:
    generator = PhiloxGenerator(2**63 - 1)
    first, second = generator.randn(SHAPE), generator.randn(SHAPE)

    assert (first.mean(), first.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("source", ["cpu", "device"])
def test_noise_of_the_processor_is_torchs(source: str) -> None:
    drawn = noise(noise_source=source)

    assert torch.equal(drawn.initial(SHAPE), seeded(7))
    generator = torch.Generator().manual_seed(7)
    torch.randn(SHAPE, generator=generator)
    assert torch.equal(drawn.following(SHAPE), torch.randn(SHAPE, generator=generator))


def test_the_noise_within_steps_can_have_another_seed() -> None:
    drawn = noise(eta_noise_seed_delta=31337)

    assert torch.equal(drawn.initial(SHAPE), seeded(7))
    assert torch.equal(drawn.following(SHAPE), seeded(7 + 31337))


@pytest.mark.parametrize(("strength", "like"), [(0.25, 7), (0.75, 99)])
def test_a_variation_lies_between_two_seeds(strength: float, like: int) -> None:
    drawn = noise(variation_seed=99, variation_strength=strength).initial(SHAPE)

    other = {7: 99, 99: 7}[like]
    assert drawn.std() == pytest.approx(1, abs=0.03)
    correlated, less = (
        float(torch.corrcoef(torch.stack([drawn.flatten(), seeded(seed).flatten()]))[0, 1]) for seed in (like, other)
    )
    assert correlated > 0.9 > 0.45 > less > 0.3


def test_all_of_a_variation_is_the_other_seed() -> None:
    drawn = noise(variation_seed=99, variation_strength=1.0).initial(SHAPE)

    torch.testing.assert_close(drawn, seeded(99))


def test_a_variation_of_itself_is_itself() -> None:
    torch.testing.assert_close(slerp(seeded(7)[0], seeded(7)[0], 0.3), seeded(7)[0])


def test_slerp_keeps_the_length_of_each_column() -> None:
    low, high = (each / each.norm(dim=1, keepdim=True) for each in (seeded(1)[0], seeded(2)[0]))

    torch.testing.assert_close(slerp(low, high, 0.4).norm(dim=1), torch.ones(4, 64))


@pytest.mark.parametrize(
    ("size", "target", "source"),
    [
        ((256, 384), (slice(8, 56), slice(16, 48)), (slice(None), slice(None))),
        ((768, 512), (slice(None), slice(None)), (slice(None), slice(16, 80))),
        ((648, 376), (slice(8, 55), slice(None)), (slice(None), slice(9, 72))),
    ],
    ids=["smaller", "wider", "odd"],
)
def test_the_noise_of_another_size_lies_centred(
    size: tuple[int, int], target: tuple[slice, slice], source: tuple[slice, slice]
) -> None:
    drawn = noise(seed_resize_width=size[0], seed_resize_height=size[1]).initial(SHAPE)

    small = seeded(7, (1, 4, size[1] // 8, size[0] // 8))
    wanted = small[..., source[0], source[1]]
    inside = drawn[..., target[0], target[1]][..., : wanted.shape[-1]]
    torch.testing.assert_close(inside, wanted[..., : inside.shape[-1]])
    assert drawn.shape == SHAPE


def test_each_picture_of_a_batch_draws_its_own() -> None:
    together = BatchNoise([noise(seed=seed) for seed in (1, 2)]).noise(torch.zeros((2, *SHAPE[1:])), 2.0, 1.0)

    assert torch.equal(together, torch.cat([seeded(1), seeded(2)]))


@pytest.mark.parametrize("scheduler", [name for name, row in SCHEDULERS.items() if row.has_brownian_noise])
def test_the_steps_of_sde_schedulers_draw_from_the_source_too(scheduler: str) -> None:
    levels, shape = torch.tensor([14.0, 5.0, 1.0, 0.03, 0.0]), (4, 8, 8)

    def drawn(source: str) -> torch.Tensor:
        requests = resolve(GenerationRequest(seed=7, scheduler=scheduler, noise_source=source), make_model())
        noise = step_noise(requests, [ImageNoise(requests[0], device=CPU)], levels, shape=shape, device=CPU)
        return noise.noise(torch.zeros(1, *shape), 14.0, 0.03)

    first_word = int(np.random.SeedSequence(7, pool_size=24).generate_state(1)[0])
    np.testing.assert_allclose(drawn("nv")[0], -PhiloxGenerator(first_word).randn(shape), atol=1e-6)
    np.testing.assert_allclose(drawn("cpu"), -seeded(first_word, (1, *shape)), atol=1e-6)
