"""How fast, and how large: races and peaks, each against its rival in the same run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
