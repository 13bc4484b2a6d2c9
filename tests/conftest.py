"""What every test starts from: none of the settings in the developer's own shell, and the same hypothesis examples."""

import os
import signal

from hypothesis import settings

for name in [name for name in os.environ if name.startswith("STUDIO_")]:
    del os.environ[name]

# A shell starts background jobs with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a red build can be repeated.
settings.register_profile("studio", derandomize=True, deadline=None, database=None)
settings.load_profile("studio")
