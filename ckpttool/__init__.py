"""ckpttool: inspect, diff, convert and verify PyTorch checkpoints without running them."""

__version__ = "0.1.0"
