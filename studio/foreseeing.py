"""What a training demands of a device, foreseen by a child process, which imports torch; this process does not."""

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from pipelines.spec.errors import InvalidRequest, StudioError
from pipelines.spec.trainer import Demand
from pipelines.spec.training import TrainingRequest
from studio import environment
from studio.settings import Settings
from studio.store import find_model
from studio.worker import load_trainer

MAX_SECONDS = 300
"""Most of it is the start of torch, and reading the pictures again."""

log = logging.getLogger(__name__)


def foresee(request: TrainingRequest, *, settings: Settings) -> Demand | None:
    """Return what a training demands of the first device; None where it cannot be asked, which the log explains.

    Args:
        request: with its model's name and an absolute folder.
        settings: name the device.

    Raises:
        InvalidRequest: it cannot work there.
    """
    if settings.engine == "fake":
        return None
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "studio.foreseeing"],
            input=f"{settings.model_dump_json()}\n{request.model_dump_json()}\n",
            env=environment.of_child(),
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
            check=True,
        )
        answer = json.loads(child.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        log.error("memory and time of a training cannot be predicted: %s\n%s", error, getattr(error, "stderr", ""))
        return None
    if "refusal" in answer:
        raise InvalidRequest(answer["refusal"], field=answer["field"])
    least, most = answer["seconds"]
    return Demand(**{**answer, "seconds": (least, most)})


def main() -> int:
    """Entry point of the child: the first line of its standard input is the settings, the second the request."""
    settings = Settings.model_validate_json(sys.stdin.readline())
    request = TrainingRequest.model_validate_json(sys.stdin.readline())
    sys.stdout.write(f"{json.dumps(_answer(request, settings))}\n")
    return 0


def _answer(request: TrainingRequest, settings: Settings) -> dict[str, Any]:
    try:
        model = find_model(request.model or settings.default_model, settings.models_dir)
        demand = load_trainer(settings.devices[0]).plan(request, model).demand
    except StudioError as error:
        return {"refusal": str(error), "field": getattr(error, "field", None)}
    assert demand is not None, "a trainer looks at its device"
    return asdict(demand)


if __name__ == "__main__":
    sys.exit(main())
