"""What a person sees and presses: text on the terminal, silence of libraries, stopping on request."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
