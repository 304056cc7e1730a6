"""What others add: found through entry points, typed, and checked on its way in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
