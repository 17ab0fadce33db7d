"""Proof that gradients are right: the gradient check, for users' operators as for the library's own."""

from __future__ import annotations

from minidl.testing.check import GradientError, gradcheck, gradgradcheck

__all__ = ["GradientError", "gradcheck", "gradgradcheck"]
