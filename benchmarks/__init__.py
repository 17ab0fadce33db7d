"""minidl beside PyTorch: ``python -m benchmarks --help``."""
