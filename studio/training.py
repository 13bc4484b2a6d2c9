"""A training on this machine: where its files go, what must not be overwritten, and the trainer that does the work."""

from collections.abc import Callable

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.model import Model
from pipelines.spec.trainer import TrainedLora, Trainer, TrainingPlan, TrainingStep
from pipelines.spec.training import TrainingRequest
from studio.settings import Settings
from studio.store import find_model
from studio.worker import load_trainer


class Training:
    """One training in this process.

    Args:
        settings: name the folders, the device and the default model.
        request: what is asked.
        resume: go on from the last checkpoint of this name.
        overwrite: a LoRA of this name may be replaced.

    Raises:
        NotFound: the model is not installed.
        InvalidRequest: there is a LoRA of this name, and `overwrite` is not asked.
    """

    def __init__(self, settings: Settings, request: TrainingRequest, *, resume: bool, overwrite: bool) -> None:
        self._request, self._resume = request, resume
        self._model: Model = find_model(request.model or settings.default_model, settings.models_dir)
        self._output = settings.home / "loras" / f"{request.name}.safetensors"
        self._folder = settings.outputs_dir / "training" / request.name
        if self._output.exists() and not (resume or overwrite):
            raise InvalidRequest(
                f"name: {self._output} exists; choose another name, --overwrite it or --resume its training",
                field="name",
            )
        self._settings = settings
        self._trainer: Trainer | None = None

    def plan(self) -> TrainingPlan:
        """Return what the training will be.

        Raises:
            InvalidRequest: it cannot work.
        """
        return self._loaded().plan(self._request, self._model)

    def run(self, on_step: Callable[[TrainingStep], bool]) -> TrainedLora:
        """Train; see `pipelines.spec.trainer.Trainer.train`.

        Args:
            on_step: called after every step; False stops and keeps what is learnt.
        """
        return self._loaded().train(
            self._request,
            self._model,
            folder=self._folder,
            output=self._output,
            resume=self._resume,
            on_step=on_step,
        )

    def _loaded(self) -> Trainer:
        if self._trainer is None:
            self._trainer = load_trainer(self._settings.devices[0])
        return self._trainer
