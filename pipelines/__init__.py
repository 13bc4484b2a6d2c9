"""The engine room: what to generate and how. Knows nothing of HTTP, Gradio or SQL."""
