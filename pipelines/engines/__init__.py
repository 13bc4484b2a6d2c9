"""Engines: each a class with one `generate` method, listed in `studio.worker.ENGINES`."""
