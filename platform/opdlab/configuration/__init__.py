"""What a file may say: typed, checked as it is read, with the line of every fault."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
