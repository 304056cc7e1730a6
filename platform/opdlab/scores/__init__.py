"""A teacher's scores on disk: written once, by shards, and read at every step of many trainings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
