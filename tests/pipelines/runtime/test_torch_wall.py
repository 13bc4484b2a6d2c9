"""Only what lies behind the wall imports torch: every module of `pipelines.spec` is loaded without it."""

import subprocess
import sys

PROBE = """
import importlib, pkgutil, sys
import pipelines.spec
for module in pkgutil.walk_packages(pipelines.spec.__path__, "pipelines.spec."):
    importlib.import_module(module.name)
print(sorted({"torch", "diffusers", "transformers", "peft"} & sys.modules.keys()))
"""


def test_nothing_before_the_wall_imports_torch() -> None:
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)

    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr
