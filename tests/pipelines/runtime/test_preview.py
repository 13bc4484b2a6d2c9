"""Previews are small pictures of whatever the latents hold."""

import pytest
import torch

from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.model import Model


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


def test_the_preview_is_one_pixel_per_latent(components: Components) -> None:
    preview = components.preview.draw(torch.randn((1, 4, 12, 20), generator=torch.Generator().manual_seed(3)).numpy())

    assert (preview.mode, preview.size) == ("RGB", (20, 12))


def test_latents_that_are_not_numbers_can_still_be_shown(components: Components) -> None:
    assert components.preview.draw(torch.full((1, 4, 8, 8), torch.nan).numpy()).size == (8, 8)
