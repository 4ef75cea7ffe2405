"""Networks and training; knows tensors."""
