"""Trains LoRAs: diffusers' models, peft's adapters, one safetensors file in kohya's layout."""
