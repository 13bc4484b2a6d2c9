"""The n-th file operation is refused, for n = 1, 2, 3 … until a job runs through untouched (as SQLite is tested)."""

import errno
import subprocess
import sys
import textwrap

import pytest

from studio import Settings
from tests.faults.conftest import start_server

_REFUSED = textwrap.dedent("""
    import itertools, os, sys
    from studio import GenerationFailed, JobState, Settings, Studio

    settings, code = Settings.model_validate_json(sys.argv[1]), int(sys.argv[2])
    refused, seen = 0, 0

    def refuse(event, arguments):
        global seen
        changes = event in {"os.mkdir", "os.rename"} or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and any(f"/outputs/{name}/" in f"{arguments[0]}/" for name in ("images", "thumbnails")):
            seen += 1
            if seen == refused:
                raise OSError(code, os.strerror(code))

    def on_disk(folder):
        return sorted(path.stem for path in (settings.outputs_dir / folder).rglob("*") if path.is_file())

    with Studio(settings) as studio:
        sys.addaudithook(refuse)
        for number in itertools.count(1):
            refused, seen = number, 0
            try:
                studio.generate("a boat", num_images=2, progress=False)
            except GenerationFailed as error:
                assert os.strerror(code) in str(error) or "disk full" in str(error), error
                job = studio.jobs(limit=1)[0]
                assert job.state is JobState.FAILED and str(error).startswith(str(job.error))
            listed = sorted(image.path.stem for image in studio.gallery.page(limit=999))
            assert on_disk("images") == on_disk("thumbnails") == listed
            if seen < refused:
                break
            refused = 0
            assert studio.generate("the next job works", progress=False)
    print(number)
""")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_refused_file_operation_fails_its_job_in_a_sentence_and_leaves_nothing(code: int, settings: Settings) -> None:
    program = [sys.executable, "-c", _REFUSED, settings.model_dump_json(), str(code)]

    result = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)

    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 8  # two pictures and two thumbnails are each opened and renamed


def test_a_server_with_a_damaged_database_refuses_in_a_sentence(settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"garbage" * 1000)
    server = start_server(settings, port=7994)

    _, sentence = server.communicate(timeout=60)

    assert server.returncode == 1
    assert "is damaged; move the file away" in " ".join(sentence.split())
    assert "Traceback" not in sentence
    assert (settings.outputs_dir / "studio.db").read_bytes() == b"garbage" * 1000
