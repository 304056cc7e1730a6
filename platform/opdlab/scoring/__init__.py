"""The teacher's answers: every token and every candidate of a rollout, by the tree or by whole forwards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
