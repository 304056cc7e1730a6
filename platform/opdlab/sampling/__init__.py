"""The student's answers: rollout engines, how they draw and how they decode."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
