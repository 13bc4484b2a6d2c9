"""What can be asked and what it means. Imports neither torch nor diffusers."""
