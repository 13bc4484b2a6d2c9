"""Every error a caller can meet, in one tree. Each carries the rule, the value and the way out in words.

StudioError
├── InvalidRequest        what was asked cannot be done; nothing has run (HTTP 422, exit code 2)
├── NotFound              no job, image or file of that name (HTTP 404, exit code 2)
├── StorageError          disk full, folder not writable, database damaged (HTTP 507, exit code 1)
├── AlreadyRunning        another server owns this outputs folder, or the port is taken (exit code 3)
├── GenerationFailed      the job ran and ended without a picture (HTTP 500, exit code 1)
│   ├── ModelError        the model's files cannot be read or are not what they claim
│   ├── LoraError         a LoRA's file cannot be read, or does not fit the model
│   ├── OutOfMemory       the device could not hold it, even in reduced-memory mode
│   ├── NotANumber        the model produced NaN or infinity, even in float32
│   └── SomeFailed        of many requests, some were refused or failed; the others were made
└── Cancelled             the user asked to stop (exit code 130)
"""

from collections.abc import Mapping


class StudioError(Exception):
    """Base of all errors raised on purpose. `str(error)` is a sentence fit for a user."""


class InvalidRequest(StudioError):
    """A field of a request breaks a rule.

    Args:
        message: the rule, the value and the way out, e.g. "width must be a multiple of 8, got 63; try 64".
        field: name of the field at fault, or None when several fields together break the rule.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(StudioError):
    """A name or id refers to nothing."""


class StorageError(StudioError):
    """The disk or the database refused. The message names the folder and the numbers."""


class AlreadyRunning(StudioError):
    """Another server holds the lock of this outputs folder, or another program the port."""


class GenerationFailed(StudioError):
    """A job ran and could not produce its picture."""


class ModelError(GenerationFailed):
    """A model's files are missing, unreadable, unsafe or of an unknown family."""


class LoraError(GenerationFailed):
    """A LoRA's file is missing, damaged, changed, does not fit the model, or changes nothing; none of it is used."""


class OutOfMemory(GenerationFailed):
    """The device could not hold the work."""


class NotANumber(GenerationFailed):
    """The model produced NaN or infinity."""


class SomeFailed(GenerationFailed):
    """Of many requests, some could not be made. It is raised once all others are.

    Args:
        failures: what went wrong, by the position of the request, from 0.
    """

    def __init__(self, failures: Mapping[int, StudioError]) -> None:
        self.failures = failures
        first = "\n".join(f"request {position}: {error}" for position, error in list(failures.items())[:10])
        more = f"\nand {len(failures) - 10} more" if len(failures) > 10 else ""
        count = "1 request" if len(failures) == 1 else f"{len(failures)} requests"
        super().__init__(f"{count} failed, the others were made:\n{first}{more}")


class Cancelled(StudioError):
    """The user cancelled the job. Raised through `on_step` to leave a denoising loop."""
