"""The steps of the ladder for processors; see the package above."""
