"""The random numbers of one picture: three sources, variations of a seed, and a seed's noise at another size.

Each picture has its own generators, so its noise is the same alone, in any batch and at any position.
"""

from collections.abc import Callable, Sequence

import torch

from pipelines.runtime.philox import PhiloxGenerator
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.values import NoiseSource

Draw = Callable[[tuple[int, ...]], torch.Tensor]
"""Returns standard normal noise of a shape, float32; each call goes on where the last one ended."""

_NEARLY_PARALLEL = 0.9995


class ImageNoise:
    """All noise of one picture, in the order in which it is drawn.

    Args:
        request: gives seed, source, variation, size of the seed's noise and ENSD.
        device: where the noise is wanted.
    """

    def __init__(self, request: ResolvedRequest, *, device: torch.device) -> None:
        self._request = request
        self._device = device
        self._draw = self._source(request.seed)

    def initial(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return what a picture starts from: the seed's noise, varied and resized as the request says.

        Args:
            shape: (1, channels, height / 8, width / 8).
        """
        request = self._request
        small = self._seed_shape(shape)
        noise = self._draw(shape) if small == shape else self._source(request.seed)(small)
        if request.variation_seed is not None:
            varied = self._source(request.variation_seed)(small)
            noise = slerp(noise[0], varied[0], request.variation_strength)[None]
        if small != shape:
            noise = _paste_centred(noise, onto=self._draw(shape))
        if request.eta_noise_seed_delta:
            self._draw = self._source(request.seed + request.eta_noise_seed_delta)
        return noise.to(self._device)

    def following(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the next noise that a stochastic sampler adds."""
        return self._draw(shape).to(self._device)

    def _source(self, seed: int) -> Draw:
        return seeded(seed, source=self._request.noise_source, device=self._device)

    def _seed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        request = self._request
        if not (request.seed_resize_width and request.seed_resize_height):
            return shape
        factor = request.height // shape[2]
        return (*shape[:2], request.seed_resize_height // factor, request.seed_resize_width // factor)


class BatchNoise:
    """The noise that a stochastic sampler adds at its steps (`samplers.StepNoise`): each picture draws its own.

    Args:
        images: one per picture of the batch.
    """

    def __init__(self, images: Sequence[ImageNoise]) -> None:
        self._images = images

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Return the next noise of every picture, (batch, channels, height, width)."""
        shape = (1, *latents_like.shape[1:])
        return torch.cat([image.following(shape) for image in self._images])


def seeded(seed: int, *, source: NoiseSource, device: torch.device) -> Draw:
    """Return a fresh generator of normal noise; "device" draws on `device`, the others on the processor."""
    match source:
        case "nv":
            philox = PhiloxGenerator(seed)
            return lambda shape: torch.from_numpy(philox.randn(shape))
        case "device":
            return _drawn_by_torch(seed, device)
        case "cpu":
            return _drawn_by_torch(seed, torch.device("cpu"))


def slerp(low: torch.Tensor, high: torch.Tensor, share: float) -> torch.Tensor:
    """Return noise on the arc from `low` to `high`, along the columns of each channel as A1111 has it.

    Args:
        low: (channels, height, width).
        high: the same shape.
        share: 0 is `low`, 1 is `high`.
    """
    cosine = (_unit(low) * _unit(high)).sum(1)
    if cosine.mean() > _NEARLY_PARALLEL:
        return torch.lerp(low, high, share)
    angle = cosine.acos()
    parts = (((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
    return parts[0].unsqueeze(1) * low + parts[1].unsqueeze(1) * high


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return unit


def _drawn_by_torch(seed: int, device: torch.device) -> Draw:
    generator = torch.Generator(device).manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, device=device, dtype=torch.float32)


def _paste_centred(noise: torch.Tensor, *, onto: torch.Tensor) -> torch.Tensor:
    """Lay noise on the middle of another; what overhangs is cropped."""
    target, source = zip(*(_overlap(onto.shape[axis], noise.shape[axis]) for axis in (2, 3)), strict=True)
    result = onto.clone()
    result[..., target[0], target[1]] = noise[..., source[0], source[1]]
    return result


def _overlap(outer: int, inner: int) -> tuple[slice, slice]:
    """Return where a centred stretch of `inner` meets one of `outer`, counted in each."""
    offset = (outer - inner) // 2
    length = inner if outer >= inner else inner + 2 * offset
    return slice(max(offset, 0), max(offset, 0) + length), slice(max(-offset, 0), max(-offset, 0) + length)
