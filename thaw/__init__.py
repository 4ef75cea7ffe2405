"""thaw: fine-tune a pretrained image classifier in two phases."""

__version__ = "0.1.0"
