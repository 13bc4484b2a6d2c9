"""The built-in model: drawn scenes, training and evaluation of a small Stable Diffusion."""
