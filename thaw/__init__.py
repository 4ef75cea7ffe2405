"""thaw: fine-tune a pretrained image classifier in two phases. The learning code, without workflow or workspace."""

__version__ = "0.1.0"
