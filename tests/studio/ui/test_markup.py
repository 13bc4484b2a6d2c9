"""What is told of a picture and of LoRAs, as HTML."""

from studio import Studio
from studio.ui import markup


def test_a_picture_that_is_read_calls_its_settings_as_the_form_does(studio: Studio) -> None:
    text = "a boat\nSteps: 9, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 1, Size: 64x64"

    read = markup.imported(studio.read_text(text))

    for label, value in {"Steps": "9", "Scheduler": "DPM++ 2M", "Noise schedule": "Karras", "Guidance": "5"}.items():
        assert f"<dt>{label}</dt><dd>{value}</dd>" in read
