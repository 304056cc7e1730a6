"""Mathematical answers: extraction, equality, and processes that can be killed to decide it in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
