"""What models are asked: the i-th prompt is a function of the seed and i."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
