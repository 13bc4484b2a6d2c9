"""A disk that runs full: the job says so with numbers, nothing partial stays, and the next job works."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio import GenerationRequest, JobState, Settings, Studio
from tests.faults.conftest import assert_nothing_lost, assert_tidy


@pytest.fixture
def tiny_disk(settings: Settings) -> Iterator[Path]:
    """A file system of one megabyte under the images folder; needs root, as CI has."""
    images = settings.outputs_dir / "images"
    images.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", images], check=True)
    yield images
    subprocess.run(["umount", images], check=True)


def test_a_full_disk_fails_the_job_and_spares_the_rest(tiny_disk: Path, studio: Studio) -> None:
    large = GenerationRequest(prompt="large", width=1024, height=1024, num_images=30, num_inference_steps=1)

    failed = studio.wait(studio.submit(large).id)

    assert failed.state is JobState.FAILED
    assert "disk full" in (failed.error or "")
    assert "MiB free" in (failed.error or "")
    kept = studio.gallery.of_job(failed.id)
    assert len(list(tiny_disk.glob("**/*.png"))) == len(kept)
    assert len(list(studio.gallery.thumbnails_dir.glob("**/*.webp"))) == len(kept)
    assert_tidy(studio)

    for image in kept:
        studio.gallery.delete(image.id)
    small = studio.submit(GenerationRequest(prompt="small"))
    studio.wait(small.id)
    assert_nothing_lost(studio, [small.id])
