"""Mounting the page: what it leaves behind in the process and on the disk."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, inspect, stat, sys
from pathlib import Path
from studio import Settings, Studio
from studio.api import create_app

getfile = inspect.getfile
stubs = {path: path.stat().st_mtime_ns for path in Path(sys.argv[2]).glob("gradio/**/*.pyi")}
home = Path(sys.argv[1])

async def make():
    with Studio(Settings(home=home, engine="fake")) as studio:
        assert "gradio" not in sys.modules
        create_app(studio, ui=False)
        assert "gradio" not in sys.modules
        create_app(studio)

asyncio.run(make())
assert "gradio" in sys.modules
assert inspect.getfile is getfile
assert not {"torch", "diffusers", "transformers"} & set(sys.modules)
assert stubs == {path: path.stat().st_mtime_ns for path in stubs}
assert stat.S_IMODE((home / "outputs" / "tmp").stat().st_mode) == 0o700
print("fine")
"""


def test_page_is_mounted_without_torch_and_leaves_gradios_files_alone(tmp_path: Path) -> None:
    packages = next(Path(entry) for entry in sys.path if (Path(entry) / "gradio").is_dir())
    old, new = (tmp_path / "outputs" / "tmp" / name / "upload.png" for name in ("old", "new"))
    for path in (old, new):
        path.parent.mkdir(parents=True, mode=0o700)
        path.touch()
    old.parents[1].chmod(0o700)
    os.utime(old, (0, 0))
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT, str(tmp_path), str(packages)]

    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)

    assert (told.stdout, told.returncode) == ("fine\n", 0), told.stderr
    assert new.exists(), "a page may still show it"
    assert not old.parent.exists(), "no running server knows of it"
