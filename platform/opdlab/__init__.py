"""opdlab: the laboratory for on-policy distillation of language models.

What the command line does is here as functions: `load`, `train`, `evaluate`, `compare`, `diagnose`, `plan`.
Pieces for a program of one's own: `Teacher` scores answers, `distillation` makes the LightningModule.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
