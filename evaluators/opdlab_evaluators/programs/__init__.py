"""Programs that models write: found in the completion, run in the sandbox, judged by their results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
