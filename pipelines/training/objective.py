"""What is minimised: the error of the predicted noise (or velocity) at a random noise level, weighed by min-SNR."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.runtime.loading import Components
from pipelines.spec.buckets import BatchPlan
from pipelines.spec.dataset import Example
from pipelines.spec.training import TrainingRequest
from pipelines.training.captions import CaptionEncoder, vary
from pipelines.training.latents import EncodedPicture, LatentCache
from pipelines.training.randomness import generator_at, random_at


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of any batch. It depends on the weights and the batch's number alone."""

    request: TrainingRequest
    components: Components
    examples: Sequence[Example]
    plan: BatchPlan
    latents: LatentCache
    captions: CaptionEncoder

    def loss(self, number: int) -> Tensor:
        """Return the loss of batch `number`, a scalar with gradients."""
        # 1. Pictures and captions, as they look this time.
        random = random_at("sight", self.request.seed, number)
        indexes = self.plan.batch(number)
        sights = [self.latents.get(index, mirrored=self.request.flip and random.random() < 0.5) for index in indexes]
        embeds, pooled = self.captions.encode(
            [vary(self.examples[index].caption, self.request, random) for index in indexes]
        )
        # 2. Noise, drawn on the processor so that every device sees the same.
        generator = generator_at("noise", self.request.seed, number)
        mean, std = torch.stack([each.mean for each in sights]), torch.stack([each.std for each in sights])
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        noise += self.request.noise_offset * torch.randn(*mean.shape[:2], 1, 1, generator=generator)
        levels = len(self.components.sigmas.sigmas)
        timesteps = torch.randint(levels, (len(sights),), generator=generator)
        # 3. The variance-preserving process: alpha² + sigma² = 1, and sigma/alpha is the noise level of the samplers.
        sigma = torch.from_numpy(self.components.sigmas.sigmas)[timesteps]
        alpha = (1 + sigma**2).rsqrt().float().view(-1, 1, 1, 1)
        sigma = sigma.float().view(-1, 1, 1, 1) * alpha
        noisy = alpha * latents + sigma * noise
        # 4. Prediction, its target (arXiv:2202.00512, appendix D) and the error of each picture.
        prediction_type = self.components.prediction_type
        targets = {"epsilon": noise, "v_prediction": alpha * noise - sigma * latents, "sample": latents}
        device = self.components.device
        predicted = self._predict(noisy.to(device), timesteps.to(device), embeds, self._added(sights, pooled))
        errors = (predicted.float() - targets[prediction_type].to(device)).square().mean(dim=(1, 2, 3))
        weights = min_snr_weights((alpha / sigma).square().flatten(), prediction_type, self.request.min_snr_gamma)
        return (errors * weights.to(device)).mean()

    def _predict(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        dtype = self.components.precision.dtype
        predicted: Tensor = self.components.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=embeds.to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return predicted

    def _added(self, sights: Sequence[EncodedPicture], pooled: Tensor | None) -> dict[str, Tensor] | None:
        if pooled is None:
            return None
        time_ids = torch.tensor([each.time_ids for each in sights], dtype=torch.float32)  # bfloat16 rounds beyond 256
        return {"text_embeds": pooled, "time_ids": time_ids.to(pooled.device)}


def min_snr_weights(snr: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """Return what each picture's error counts (arXiv:2303.09556, section 3.4): min(SNR, gamma) for the original,
    divided by SNR for noise, by SNR + 1 for velocity.

    Args:
        snr: (batch,) signal-to-noise ratios.
        prediction_type: epsilon, v_prediction or sample.
        gamma: None weighs all errors alike.
    """
    if gamma is None:
        return torch.ones_like(snr)
    divisors = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return snr.clamp(max=gamma) / divisors[prediction_type]
