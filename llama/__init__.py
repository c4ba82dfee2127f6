"""Split-inference Llama: the model's first layers on a person's device, the rest in the cloud."""

__version__ = "0.1.0"
