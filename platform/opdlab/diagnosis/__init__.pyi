from .page import FIGURE as FIGURE, document as document, drawn as drawn, scrolled as scrolled
from .run import Diagnosis as Diagnosis, diagnose as diagnose
from .work import Settings as Settings
