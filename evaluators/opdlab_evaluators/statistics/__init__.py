"""Scores with intervals that hold, and comparisons that claim no more than was measured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
