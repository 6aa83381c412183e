"""Building blocks that papers share: plain functions and `nn.Module`s, importable without Lightning."""
