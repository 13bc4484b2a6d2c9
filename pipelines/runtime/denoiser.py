"""The U-Net as samplers want it: latents and a noise level in, the predicted original out, under guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipelines.runtime.conditioning import Conditioning, EncodedPrompt
from pipelines.runtime.keeping import Keep
from pipelines.runtime.loading import Components
from pipelines.runtime.tiling import Tile, Tiles


@dataclass(frozen=True)
class Guidance:
    """What one picture is led to and away from: classifier-free guidance (arXiv:2207.12598) with A1111's AND."""

    prompt: EncodedPrompt
    negative_prompt: EncodedPrompt
    scale: float

    def rows(self, evaluation: int) -> list[tuple[Conditioning, float]]:
        """Return what the U-Net is asked, and what each answer counts for in the picture's prediction.

        That is negative + scale · Σ weight · (branch - negative). What counts for nothing is not asked: at a scale of 1
        that is the negative prompt, half of the work.
        """
        weights = [self.scale * branch.weight for branch in self.prompt.branches]
        (negative,) = self.negative_prompt.branches
        positive = [branch.at(evaluation) for branch in self.prompt.branches]
        rows = [(negative.at(evaluation), 1 - sum(weights)), *zip(positive, weights, strict=True)]
        return [(conditioning, weight) for conditioning, weight in rows if weight]

    def shapes(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return from which evaluation on the picture takes rows of how many tokens: (evaluation, tokens of each)."""
        branches = (*self.prompt.branches, *self.negative_prompt.branches)
        changes = sorted({0, *(until + 1 for branch in branches for until, _ in branch.scheduled[:-1])})
        return tuple(
            (start, tuple(conditioning.prompt_embeds.shape[1] for conditioning, _ in self.rows(start)))
            for start in changes
        )


@dataclass(frozen=True)
class _Row:
    """One row of a call of the U-Net."""

    image: int
    """Which picture of the batch."""
    conditioning: Conditioning
    weight: float
    """What its prediction counts for in the picture's."""


class Denoiser:
    """Predicts the original behind the noise for a batch of pictures (`samplers.Denoise`).

    Args:
        components: the loaded model.
        guidance: one per picture.
        size: height and width of the picture in pixels, which SDXL is told.
        tiles: of the latents; the U-Net sees one at a time.
        keep: what stays; the prediction shows it as it is, whatever the U-Net says.
        extra_channels: (1, channels, height, width) that a U-Net made for inpaint sees beside the latents.
        on_tile: called before each tile of several; what it raises ends the work.
    """

    def __init__(
        self,
        components: Components,
        *,
        guidance: Sequence[Guidance],
        size: tuple[int, int],
        tiles: Tiles,
        keep: Keep | None,
        extra_channels: torch.Tensor | None,
        on_tile: Callable[[], object] = lambda: None,
    ) -> None:
        self._components = components
        self._sigmas = components.sigmas
        self._prediction_type = components.prediction_type
        self._guidance = guidance
        self._size = size
        self._tiles = tiles
        self._keep = keep
        self._extra_channels = extra_channels
        self._on_tile = on_tile
        self._stacked: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._told: dict[Tile, torch.Tensor] = {}
        self.step = 1
        """The step that is being made, from 1."""
        self.evaluations = 0
        """How often the denoiser has run: prompts may change with it."""

    def __call__(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the predicted original of (batch, channels, height, width) latents, float32."""
        scaled = latents / (sigma**2 + 1) ** 0.5
        # Filled and sliced, not copied or indexed: a copy from the processor waits until an accelerator has caught up.
        timestep = torch.full((), float(self._sigmas.sigma_to_t(sigma)), device=latents.device)
        prediction = self._tiles.blend(lambda tile: self._predict_tile(tile, scaled, timestep), like=latents)
        self.evaluations += 1
        original = self._to_original(prediction, latents, sigma)
        return original if self._keep is None else self._keep.apply(original, sigma=sigma, step=self.step)

    def _predict_tile(self, tile: Tile, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return what guidance makes of the U-Net's predictions for one tile of each picture."""
        if len(self._tiles.each) > 1:
            self._on_tile()
        part = tile.cut(scaled).contiguous()
        combined = torch.zeros_like(part)
        for rows in _calls(self._guidance, self.evaluations):
            predictions = self._predict(part, timestep, rows, tile)
            for row, prediction in zip(rows, predictions, strict=True):
                combined[row.image] += row.weight * prediction
        return combined

    def _predict(self, scaled: torch.Tensor, timestep: torch.Tensor, rows: Sequence[_Row], tile: Tile) -> torch.Tensor:
        """Return the U-Net's predictions, float32 whatever it runs in: one per row."""
        batch = torch.cat([scaled[row.image : row.image + 1] for row in rows])
        if self._extra_channels is not None:
            batch = torch.cat([batch, tile.cut(self._extra_channels).expand(len(rows), -1, -1, -1)], dim=1)
        embeds, added = self._conditions([row.conditioning for row in rows], tile)
        prediction: torch.Tensor = self._components.unet(
            batch.to(self._components.precision.dtype),
            timestep,
            encoder_hidden_states=embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return prediction.float()

    def _conditions(
        self, conditionings: Sequence[Conditioning], tile: Tile
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the U-Net is told beside latents and time; kept, because most steps are told the same."""
        key = tuple(map(id, conditionings))
        if key not in self._stacked:
            pooled = [each.pooled_prompt_embeds for each in conditionings if each.pooled_prompt_embeds is not None]
            embeds = torch.cat([each.prompt_embeds for each in conditionings])
            self._stacked[key] = embeds, torch.cat(pooled) if pooled else None
        embeds, text_embeds = self._stacked[key]
        if text_embeds is None:
            return embeds, {}
        return embeds, {"text_embeds": text_embeds, "time_ids": self._time_ids(tile, embeds)}

    def _time_ids(self, tile: Tile, embeds: torch.Tensor) -> torch.Tensor:
        """Return what SDXL is told in pixels: original size, crop and target size (arXiv:2307.01952, section 2.2).

        A tile is a crop of the picture: it is told the size of the whole, its own place and its own size. The place
        keeps the subject from coming again in every tile, for SDXL paints one in the middle where it is told (0, 0).
        """
        if tile not in self._told:
            factor = self._components.vae_scale_factor
            place = tile.top, tile.left, tile.bottom - tile.top, tile.right - tile.left
            ids = [[*self._size, *(factor * side for side in place)]]
            self._told[tile] = torch.tensor(ids, dtype=torch.float32, device=embeds.device)  # bfloat16 ends at 2048
        return self._told[tile].expand(len(embeds), -1)

    def _to_original(self, prediction: torch.Tensor, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return x0 for what this kind of model predicts (arXiv:2202.00512, section 4 and appendix D)."""
        original = prediction
        if self._prediction_type == "epsilon":
            original = latents - sigma * prediction
        elif self._prediction_type == "v_prediction":
            original = latents / (sigma**2 + 1) - prediction * (sigma / (sigma**2 + 1) ** 0.5)
        return original


def _calls(guidance: Sequence[Guidance], evaluation: int) -> list[list[_Row]]:
    """Part the rows of all pictures by the length of their prompts: one call takes one length.

    Forge repeats the shorter ones until all are of one length, which changes nothing but the work: attention weighs
    every repetition alike.
    """
    calls: dict[int, list[_Row]] = {}
    for image, each in enumerate(guidance):
        for conditioning, weight in each.rows(evaluation):
            calls.setdefault(conditioning.prompt_embeds.shape[1], []).append(_Row(image, conditioning, weight))
    return list(calls.values())
