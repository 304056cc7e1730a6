"""Models and what is computed of them alone: loading, attention, the head, losses over a vocabulary."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
