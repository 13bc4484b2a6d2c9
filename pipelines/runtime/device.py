"""Where the work runs: one device, its memory and the dtypes that pay off there. Asks torch only."""

from dataclasses import dataclass

import psutil
import torch

from pipelines.spec.errors import InvalidRequest


@dataclass(frozen=True)
class DeviceInfo:
    """A device as it is at the moment of asking."""

    device: torch.device
    name: str
    """What the vendor calls it, e.g. "NVIDIA H100 80GB HBM3"; "cpu" for the processor."""
    total_bytes: int
    free_bytes: int
    dtypes: tuple[torch.dtype, ...]
    """Dtypes that pay off here, the best first."""

    @property
    def kind(self) -> str:
        """One of "cpu", "cuda" or "mps"."""
        return self.device.type


def describe_device(name: str = "auto") -> DeviceInfo:
    """Return one device by its name in torch; "auto" is the best there is.

    `torch.cuda.mem_get_info` creates a context of some 400 MiB on the card: call this only in the process that works
    there.

    Raises:
        InvalidRequest: for a device that this machine or this build of torch does not have.
    """
    device = torch.device(_best_device()) if name == "auto" else _parse(name)
    match device.type:
        case "cuda":
            free, total = torch.cuda.mem_get_info(device)
            with torch.cuda.device(device):  # or the question is about the first card
                half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
            return DeviceInfo(device, torch.cuda.get_device_name(device), total, free, (half, torch.float32))
        case "mps":
            total = torch.mps.recommended_max_memory()
            free = total - torch.mps.driver_allocated_memory()
            return DeviceInfo(device, "Apple GPU", total, free, (torch.float16, torch.float32))
        case _:
            # Emulated half precision is three times slower than float32 on processors without AMX.
            memory = psutil.virtual_memory()
            return DeviceInfo(device, "cpu", memory.total, memory.available, (torch.float32,))


def available_devices() -> list[str]:
    """Return the names that `describe_device` accepts, the best first."""
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [*cards, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def _best_device() -> str:
    return available_devices()[0]


def _parse(name: str) -> torch.device:
    known = available_devices()
    if name == "cuda" and "cuda:0" in known:
        name = "cuda:0"
    if name not in known:
        raise InvalidRequest(f"device {name!r} is not there; choose auto or one of {', '.join(known)}", field="device")
    return torch.device(name)
