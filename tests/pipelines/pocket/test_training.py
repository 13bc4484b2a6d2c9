"""Training: two very short sittings end to end, the second resuming the first; and the optimizer's arithmetic."""

from pathlib import Path

import pytest
import torch

from pipelines.pocket.muon import orthogonal
from pipelines.pocket.sitting import Sitting
from pipelines.pocket.train import main
from pipelines.pocket.weights import load_parts


def test_orthogonal_flattens_the_singular_values() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(24, 80, generator=generator)).float())
    # Newton-Schulz with Muon's coefficients stops between 0.7 and 1.2 on purpose; bfloat16 adds a percent.
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_learning_rate_warms_up_holds_and_decays() -> None:
    sitting = Sitting(1, steps=1000)
    rates = [sitting.learning_rate(1.0, step, decay_from=0.5) for step in (0, 100, 499, 750, 999)]
    assert rates[0] < 0.05
    assert rates[1:3] == [1.0, 1.0]
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] <= 0.02


@pytest.mark.slow
def test_training_writes_a_model_folder_and_resumes(tmp_path: Path) -> None:
    folder, weights = tmp_path / "training", tmp_path / "weights"
    places = ["--steps", "1", "--samples", "1", "--folder", str(folder), "--weights", str(weights)]
    for part in ("tokenizer", "vae", "unet"):
        main([part, *places])
    assert (weights / "model_index.json").exists()
    main(["unet", "--resume", *places])
    assert torch.load(folder / "unet.pt", weights_only=True)["pictures_seen"] == 128
    (folder / "unet.pt").unlink()
    main(["unet", "--resume", *places])
    assert torch.load(folder / "unet.pt", weights_only=True)["pictures_seen"] == 64


@pytest.mark.slow
def test_a_new_autoencoder_empties_the_pool_of_latents(tmp_path: Path) -> None:
    folder, weights = tmp_path / "training", tmp_path / "weights"
    places = ["--steps", "1", "--samples", "1", "--folder", str(folder), "--weights", str(weights)]
    for part in ("tokenizer", "vae", "unet"):
        main([part, *places])
    before = load_parts(weights)
    main(["vae", "--resume", *places])
    after = load_parts(weights)
    assert torch.load(folder / "unet.pt", weights_only=True)["pool"] is None
    assert not torch.equal(after.vae.decoder.conv_in.weight, before.vae.decoder.conv_in.weight)
    assert torch.equal(after.unet.conv_in.weight, before.unet.conv_in.weight)
