from .page import FIGURE as FIGURE, document as document
from .run import Diagnosis as Diagnosis, diagnose as diagnose
from .work import Settings as Settings
