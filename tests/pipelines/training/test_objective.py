"""The loss, computed a second time by diffusers' own parts; and that every option of the optimization acts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.material import Material
from pipelines.spec.model import Model
from pipelines.spec.pictures import open_picture
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import MAGNITUDE, Adapter
from pipelines.training.captions import CaptionEncoder
from pipelines.training.latents import LatentCache, fit_to_bucket
from pipelines.training.objective import Objective
from pipelines.training.optimization import Average, make_optimizer
from pipelines.training.randomness import generator_at, random_at
from tests.pipelines.training.conftest import Train

Copy = Callable[[Model], Model]
SCHEDULERS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "velocity": {"prediction_type": "v_prediction"},
    "zero terminal SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


def _components(model: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(model)


def _objective(request: TrainingRequest, model: Model) -> Objective:
    components, material = _components(model), Material.read(request, model)
    examples, batches = material.dataset.examples, material.batches
    captions = CaptionEncoder(components, clip_skip=material.clip_skip, is_trained=False)
    return Objective(request, components, examples, batches, LatentCache(examples, batches.sizes, components), captions)


def _encoded(components: Components, captions: list[str | None]) -> tuple[Tensor, Tensor | None]:
    """Encode as diffusers' training scripts do."""
    ids = components.tokenizers[0]([text or "" for text in captions], padding="max_length", max_length=77)["input_ids"]
    first, *others = components.text_encoders
    if not others:
        return first(torch.tensor(ids)).last_hidden_state, None
    outputs = [encoder(torch.tensor(ids), output_hidden_states=True) for encoder in (first, *others)]
    said = torch.tensor([float(text is not None) for text in captions])
    embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1) * said[:, None, None]
    return embeds, outputs[1].text_embeds * said[:, None]


def _reference(objective: Objective, model: Model, number: int, *, gamma: float, offset: float) -> float:
    components, vae = objective.components, objective.components.vae
    scheduler: Any = diffusers.DDPMScheduler.from_pretrained(model.path, subfolder="scheduler")
    indexes, random = objective.plan.batch(number), random_at("sight", 0, number)
    mirrored = [random.random() < 0.5 for _ in indexes]
    captions = []
    for index in indexes:
        is_dropped = random.random() < 0.5
        captions.append(None if is_dropped else objective.examples[index].caption)
    pixels, time_ids = [], []
    for index, is_mirrored in zip(indexes, mirrored, strict=True):
        whole = open_picture(objective.examples[index].path).image
        cut, _ = fit_to_bucket(whole, objective.plan.sizes[index])
        pixels.append(np.asarray(cut)[:, :: -1 if is_mirrored else 1].transpose(2, 0, 1) / 127.5 - 1)
        scale = max(cut.width / whole.width, cut.height / whole.height)
        left, top = ((round(whole.width * scale) - cut.width) // 2, (round(whole.height * scale) - cut.height) // 2)
        time_ids.append([whole.height, whole.width, top, left, cut.height, cut.width])
    posterior = vae.encode(torch.tensor(np.stack(pixels), dtype=torch.float32)).latent_dist
    generator = generator_at("noise", 0, number)
    sample = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
    latents = sample * vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    noise = noise + offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(indexes),), generator=generator)
    is_velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if is_velocity else noise
    embeds, pooled = _encoded(components, captions)
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": torch.tensor(time_ids).float()}
    noisy = scheduler.add_noise(latents, noise, timesteps)
    predicted = components.unet(noisy, timesteps, encoder_hidden_states=embeds, added_cond_kwargs=added).sample
    snr = compute_snr(scheduler, timesteps)
    weights = snr.clamp(max=gamma) / (snr + 1 if is_velocity else snr)
    return float(((predicted - target).square().mean(dim=(1, 2, 3)) * weights).mean())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@torch.no_grad()
def test_the_loss_is_what_diffusers_makes_of_the_same_chance(
    family: str, scheduler: str, request: pytest.FixtureRequest, copy_model: Copy, data: Path
) -> None:
    model = copy_model(request.getfixturevalue(family))
    config = model.path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **SCHEDULERS[scheduler]}))
    options: dict[str, Any] = {"min_snr_gamma": 5.0, "noise_offset": 0.1, "caption_dropout": 0.5, "flip": True}
    asked = TrainingRequest(data=str(data), name="x", batch_size=2, resolution=64, **options)
    objective = _objective(asked, model)

    for number in range(6):
        expected = _reference(objective, model, number, gamma=5.0, offset=0.1)
        # Sums of float32 in another order, and noise levels that come by another way.
        assert float(objective.loss(number)) == pytest.approx(expected, rel=1e-5)


def test_a_picture_is_encoded_once(sd1: Model, data: Path) -> None:
    latents = _objective(TrainingRequest(data=str(data), name="x", flip=True), sd1).latents

    assert latents.get(0, mirrored=False) is latents.get(0, mirrored=False)
    assert not torch.equal(latents.get(0, mirrored=False).mean, latents.get(0, mirrored=True).mean)


def test_mixed_precision_leaves_the_vae_in_its_own(sd1: Model, data: Path) -> None:
    """SDXL's runs in float32 because float16 overflows; under autocast its layers would run in float16 all the same."""
    plain, under_autocast = (_objective(TrainingRequest(data=str(data), name="x"), sd1).latents for _ in range(2))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = under_autocast.get(0, mirrored=False)

    assert torch.equal(encoded.mean, plain.get(0, mirrored=False).mean)


def test_sdxl_learns_from_the_layer_that_pictures_are_made_with(sdxl: Model) -> None:
    """Its last layer is never read: clip skip 1 means the last but one."""
    components = _components(sdxl)
    request = GenerationRequest(prompt="a house", clip_skip=1, seed=0)
    (resolved,) = resolve(request, sdxl)
    painted = PromptEncoder().encode(resolved, components=components).branches[0].at(0)

    with torch.no_grad():
        embeds, pooled = CaptionEncoder(components, clip_skip=1, is_trained=False).encode(["a house"])

    torch.testing.assert_close(embeds, painted.prompt_embeds)
    torch.testing.assert_close(pooled, painted.pooled_prompt_embeds)


def test_batches_of_one_step_are_averaged(train: Train, sd1: Model, data: Path) -> None:
    objective = _objective(TrainingRequest(data=str(data), name="x"), sd1)
    with torch.no_grad():
        losses = [float(objective.loss(number)) for number in range(3)]

    assert train(steps=1, gradient_accumulation_steps=3).final_loss == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_long_gradients_are_cut(train: Train) -> None:
    whole, cut = (load_file(train(place=str(norm), max_grad_norm=norm).path) for norm in (0.0, 1e-9))

    name = next(name for name in whole if name.endswith("lora_up.weight"))
    assert cut[name].abs().max() < 0.1 * whole[name].abs().max()  # AdamW's epsilon outweighs them


def test_text_encoders_learn_at_their_own_rate(train: Train, sd1: Model) -> None:
    request = TrainingRequest(data="x", name="x", train_text_encoder=True, learning_rate=1e-3)
    optimizer = make_optimizer(request, Adapter.inject(request, _components(sd1)))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-4]

    tensors = load_file(train(train_text_encoder=True, text_encoder_learning_rate=1e-12, learning_rate=1e-2).path)

    ups = {name: tensor.abs().max() for name, tensor in tensors.items() if name.endswith("lora_up.weight")}
    assert max(most for name, most in ups.items() if name.startswith("lora_te")) < 1e-6
    assert max(most for name, most in ups.items() if name.startswith("lora_unet")) > 1e-3


def test_magnitudes_do_not_decay(sd1: Model) -> None:
    request = TrainingRequest(data="x", name="x", kind="dora", weight_decay=1.0, learning_rate=0.1)
    adapter = Adapter.inject(request, _components(sd1))
    before = {name: parameter.detach().clone() for name, parameter in adapter.parameters().items()}
    for parameter in adapter.parameters().values():
        parameter.grad = torch.zeros_like(parameter)

    make_optimizer(request, adapter).step()

    for name, parameter in adapter.parameters().items():
        shrunk = 1.0 if MAGNITUDE in name else 0.9
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_half_precision_is_computed_where_it_is_asked(train: Train) -> None:
    plain, half = (
        load_file(train(place=kind, mixed_precision=kind, learning_rate=1e-2, save_dtype="float32").path)
        for kind in ("no", "bf16")
    )

    assert any(not torch.equal(plain[name], half[name]) for name in plain)


def test_the_average_follows_and_early_steps_are_forgotten_faster() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average, expected = Average({"a": parameter}, 0.5), 0.0
    for step in range(1, 20):
        parameter.data = torch.full((1,), float(step))
        average.follow(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step

    assert average.values["a"].item() == pytest.approx(expected)
    with average.in_place():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 19


def test_the_file_holds_the_average(train: Train) -> None:
    plain, averaged = (
        load_file(train(place=str(decay), steps=4, ema_decay=decay, learning_rate=1e-2).path) for decay in (None, 0.999)
    )

    name = next(name for name in plain if name.endswith("lora_up.weight"))
    assert 0 < averaged[name].abs().max() < plain[name].abs().max()
