"""Work that needs no model of the cache, when memory is short: the models make room, once."""

import pytest
import torch

from pipelines.runtime.loading import ModelCache
from pipelines.runtime.recovery import run_alone
from pipelines.spec.errors import OutOfMemory
from pipelines.spec.model import Model


def short_of_memory(models: ModelCache) -> str:
    if models.names:
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 1.00 GiB")
    return "done"


def test_models_make_room_for_an_upscaler(sd1: Model) -> None:
    models, forgotten = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9), []
    models.get(sd1)

    made = run_alone(
        lambda: short_of_memory(models), models=models, device="cpu", forget=lambda: forgotten.append("LoRAs")
    )

    assert (made, models.names, forgotten) == ("done", (), ["LoRAs"])


def test_where_that_is_not_enough_it_is_told_with_numbers_and_advice() -> None:
    def work() -> str:
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 1.00 GiB")

    models = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    with pytest.raises(OutOfMemory, match=r"\d GiB free and could not hold the upscaler .* choose lanczos .*1\.00 GiB"):
        run_alone(work, models=models, device="cpu", forget=lambda: None)


def test_other_errors_pass() -> None:
    def work() -> str:
        raise RuntimeError("shapes do not match")

    models = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    with pytest.raises(RuntimeError, match="shapes"):
        run_alone(work, models=models, device="cpu", forget=lambda: None)
