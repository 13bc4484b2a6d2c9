"""The device is described by what torch says of it."""

import psutil
import pytest
import torch

from pipelines.runtime.device import available_devices, describe_device
from pipelines.spec.errors import InvalidRequest


def test_the_processor_is_always_there_and_computes_in_float32() -> None:
    info = describe_device("cpu")

    assert (info.kind, info.name, info.dtypes) == ("cpu", "cpu", (torch.float32,))
    assert info.total_bytes == psutil.virtual_memory().total
    assert 0 < info.free_bytes <= info.total_bytes


def test_auto_is_the_first_that_is_available() -> None:
    assert str(describe_device("auto").device) == available_devices()[0]


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"choose auto or one of .*cpu") as caught:
        describe_device(name)

    assert caught.value.field == "device"
