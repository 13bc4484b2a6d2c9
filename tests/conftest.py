"""What every test starts from: none of the settings in the developer's own shell."""

import os

for name in [name for name in os.environ if name.startswith("STUDIO_")]:
    del os.environ[name]
