"""From a diffusers folder to components in memory: checked, converted, kept while they fit, never two copies."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
import transformers

from pipelines.runtime.guards import Stage, is_out_of_memory, release_memory
from pipelines.runtime.preview import LatentPreview
from pipelines.runtime.sigmas import ModelSigmas
from pipelines.runtime.unet import AnnouncedAttention, RowwiseUNet, remember_prompts
from pipelines.runtime.weights import Stamp, Weights, find_weights, fingerprint, read_json, stamp_files
from pipelines.spec.errors import ModelError
from pipelines.spec.model import Model

CLASSES: Mapping[str, Mapping[str, type]] = MappingProxyType(
    {
        "sd1": {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
            "text_encoder": transformers.CLIPTextModel,
            "tokenizer": transformers.CLIPTokenizer,
        },
        "sdxl": {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
            "text_encoder": transformers.CLIPTextModel,
            "tokenizer": transformers.CLIPTokenizer,
            "text_encoder_2": transformers.CLIPTextModelWithProjection,
            "tokenizer_2": transformers.CLIPTokenizer,
        },
    }
)
"""The only classes that are ever loaded, by family; a model that names another is refused, so no code comes with it."""


NOISE_FACTS = frozenset(
    {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"}
)
"""What a model's scheduler_config.json says about its training. Everything else in that file belongs to one sampler."""

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
OTHER_PROCESSES = ("EDM", "FlowMatch")
"""How the names of schedulers begin that noise in another way: those models would paint, but nothing that is right."""


@dataclass(frozen=True)
class Precision:
    """What a model runs in."""

    dtype: torch.dtype
    """Of the U-Net and the text encoders."""
    vae_dtype: torch.dtype
    vae_upcast: bool = False
    """The VAE runs in float32 because it produced NaN in `dtype`."""

    def upcast(self, stage: Stage) -> "Precision | None":
        """Return a precision in which the stage runs in float32; None if it already does."""
        if stage is Stage.VAE:
            already = self.vae_dtype == torch.float32
            return None if already else replace(self, vae_dtype=torch.float32, vae_upcast=True)
        return None if self.dtype == torch.float32 else Precision(torch.float32, torch.float32)


@dataclass(frozen=True, eq=False)
class Components:
    """A loaded model. Shared by all pictures; nobody changes it."""

    name: str
    fingerprint: str
    """See `weights.fingerprint`."""
    precision: Precision
    unet: Any
    vae: Any
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    """One for Stable Diffusion 1.x, two for XL."""
    sigmas: ModelSigmas
    """The noise levels it was trained on."""
    prediction_type: str
    """What the U-Net predicts, one of `PREDICTION_TYPES`."""
    zero_empty_negative: bool
    """Whether an empty negative prompt means zeros instead of the encoded empty text (SDXL)."""
    preview: LatentPreview
    device: torch.device
    num_bytes: int

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def sees_mask(self) -> bool:
        """Whether the U-Net was made for inpaint: it takes mask and masked picture beside the latents."""
        return bool(self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1)


_Version = tuple[Stamp, Precision | None]
"""Of which files a model was loaded, and in which precision if not in its usual one."""


class ModelCache:
    """Loaded models, the most recently used last, within a number of bytes.

    Args:
        device: where models are loaded.
        dtype: what U-Net and text encoders run in.
        max_bytes: older models are dropped to stay below; the one in use may exceed it.
    """

    def __init__(self, device: torch.device, *, dtype: torch.dtype, max_bytes: int) -> None:
        self._device = device
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[Path, tuple[_Version, Components]] = OrderedDict()
        self._precisions: dict[tuple[Path, Stamp], Precision] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models in memory, the one used last at the end."""
        return tuple(components.name for _, components in self._loaded.values())

    def get(self, model: Model, *, precision: Precision | None = None) -> Components:
        """Return the model's components, loaded anew if any of its files or their precision is another.

        Args:
            model: which one.
            precision: another than the model's own: what comes next without it has the model's own again.

        Raises:
            ModelError: a file is missing, damaged, unsafe or not what it claims.
        """
        stamp = stamp_files(model.path)
        version = stamp, precision or self._precisions.get((model.path, stamp))
        known_version, components = self._loaded.get(model.path, (None, None))
        if components is None or known_version != version:
            del components
            self._forget(model.path)
            components = self._load(model, version[1])
            self._loaded[model.path] = version, components
        self._loaded.move_to_end(model.path)
        return components

    def upcast(self, model: Model, stage: Stage, *, for_good: bool = True) -> Precision | None:
        """Return a precision in which a stage that produced NaN runs in float32; None if it already did.

        Args:
            model: dropped, to be loaded again in that precision.
            stage: what produced NaN.
            for_good: whether that is the model's own precision from now on.
        """
        (stamp, _), components = self._loaded[model.path]
        precision = components.precision.upcast(stage)
        if precision is not None:
            del components
            self._forget(model.path)
            if for_good:
                self._precisions[model.path, stamp] = precision
        return precision

    def drop(self, model: Model) -> None:
        """Drop a model: what uses it next loads it again."""
        self._forget(model.path)

    def keep_only(self, model: Model | None) -> None:
        """Drop every other model; None keeps none."""
        for path in [path for path in self._loaded if model is None or path != model.path]:
            self._forget(path)

    def _forget(self, path: Path) -> None:
        if self._loaded.pop(path, None) is not None:
            release_memory(self._device)

    def _load(self, model: Model, precision: Precision | None) -> Components:
        loader = _Loader(model, self._device)
        precision = precision or usual_precision(model, self._dtype)
        wanted = loader.predict_bytes(precision)
        while self._loaded and wanted + sum(held.num_bytes for _, held in self._loaded.values()) > self._max_bytes:
            self._forget(next(iter(self._loaded)))
        return loader.load(precision)


def usual_precision(model: Model, dtype: torch.dtype) -> Precision:
    """Return what a model runs in where nothing else is asked.

    The VAE of SDXL overflows in float16 and says so (`force_upcast`): it runs in float32 then.
    """
    force_upcast = read_json(model.path / "vae" / "config.json").get("force_upcast", True)
    overflows = dtype == torch.float16 and force_upcast
    return Precision(dtype, torch.float32 if overflows else dtype)


class _Loader:
    """Reads one model folder. Everything that can be checked without loading is checked at construction."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._classes = CLASSES[model.family.name]
        self._index = read_json(model.path / "model_index.json")
        for part, expected in self._classes.items():
            self._check_class(part, expected)
        self._scheduler_config = read_json(model.path / "scheduler" / "scheduler_config.json")
        self._sigmas = self._trained_sigmas()
        self._prediction_type = self._trained_prediction()
        self._weights: dict[str, Weights] = {
            part: find_weights(model.path / part) for part in self._classes if not part.startswith("tokenizer")
        }

    def predict_bytes(self, precision: Precision) -> int:
        """Return the size of all weights in memory."""
        return sum(
            weights.num_parameters * (precision.vae_dtype if part == "vae" else precision.dtype).itemsize
            for part, weights in self._weights.items()
        )

    def load(self, precision: Precision) -> Components:
        with _quiet_libraries():
            parts = {part: self._load_part(part, precision) for part in self._classes}
        vae = parts["vae"]
        return Components(
            name=self._model.name,
            fingerprint=fingerprint(self._model.path, tuple(f for w in self._weights.values() for f in w.files)),
            precision=precision,
            unet=parts["unet"],
            vae=vae,
            tokenizers=tuple(parts[part] for part in self._classes if part.startswith("tokenizer")),
            text_encoders=tuple(parts[part] for part in self._classes if part.startswith("text_encoder")),
            sigmas=self._sigmas,
            prediction_type=self._prediction_type,
            zero_empty_negative=self._model.family.name == "sdxl"
            and bool(self._index.get("force_zeros_for_empty_prompt", True)),
            preview=LatentPreview(vae, scaling_factor=vae.config.scaling_factor),
            device=self._device,
            num_bytes=self.predict_bytes(precision),
        )

    def _trained_sigmas(self) -> ModelSigmas:
        """Return the noise levels that scheduler_config.json speaks of, whatever sampler it names."""
        facts = {key: self._scheduler_config[key] for key in NOISE_FACTS & self._scheduler_config.keys()}
        try:
            scheduler: Any = diffusers.DDPMScheduler
            return ModelSigmas.from_alphas_cumprod(scheduler(**facts).alphas_cumprod)
        except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            raise ModelError(
                f"model {self._model.name}: scheduler/scheduler_config.json describes no noise levels: {error}"
            ) from error

    def _trained_prediction(self) -> str:
        """Return what the U-Net predicts, as scheduler_config.json says; refuse what is not understood."""
        process = str(self._scheduler_config.get("_class_name"))
        prediction = self._scheduler_config.get("prediction_type", "epsilon")
        if process.startswith(OTHER_PROCESSES) or prediction not in PREDICTION_TYPES:
            raise ModelError(
                f"model {self._model.name}: scheduler/scheduler_config.json says {process} and prediction_type "
                f"{prediction}; only models trained to predict {', '.join(PREDICTION_TYPES)} can be run, and none of "
                f"{' or '.join(OTHER_PROCESSES)}: choose another model"
            )
        return str(prediction)

    def _check_class(self, part: str, expected: type) -> None:
        entry = self._index.get(part)
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            raise ModelError(
                f"model {self._model.name}: {self._model.path / 'model_index.json'} names no {part}, which "
                f"{self._model.family.label} needs; download the whole model"
            )
        accepted = {expected.__name__, f"{expected.__name__}Fast"}
        if entry[1] not in accepted:
            raise ModelError(
                f"model {self._model.name}: {part} must be a {expected.__name__} for {self._model.family.label}, "
                f"got {entry[1]}; this model cannot be run"
            )
        if not (self._model.path / part).is_dir():
            raise ModelError(f"{self._model.path / part} is missing; download the model again")

    def _load_part(self, part: str, precision: Precision) -> Any:
        folder = self._model.path / part
        loader: Any = RowwiseUNet if part == "unet" else self._classes[part]
        try:
            if part.startswith("tokenizer"):
                return loader.from_pretrained(folder, local_files_only=True)
            read_json(folder / "config.json")
            module, report = loader.from_pretrained(
                folder,
                dtype=precision.vae_dtype if part == "vae" else precision.dtype,
                variant=self._weights[part].variant,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except ModelError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(f"{folder} cannot be loaded: {error}") from error
        missing = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])
        if missing:
            raise ModelError(f"{folder} lacks {len(missing)} tensors that its config.json asks for, first {missing[0]}")
        if part == "unet":
            module.set_attn_processor(AnnouncedAttention())
            remember_prompts(module)
        if self._device.type == "cpu":
            _detach_from_file(module)
        return module.to(self._device).eval().requires_grad_(False)


def _detach_from_file(module: torch.nn.Module) -> None:
    """Copy weights that may still be a view of the mapped file into memory of torch's own.

    A mapped file that is cut short kills the process with SIGBUS. And tensors lie in the file at any offset, while the
    order in which kernels add numbers up, and so the last bit of every pixel, follows from the alignment.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence log lines, warnings and progress bars of both libraries while loading; restore what the process had."""
    libraries: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
