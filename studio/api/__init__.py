"""The HTTP front door: REST, the guard before it and the server process. Knows neither torch nor Gradio."""

from studio.api.app import create_app, serve

__all__ = ["create_app", "serve"]
