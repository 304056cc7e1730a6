from .cuts import Cut as Cut, cut_layers as cut_layers, cut_width as cut_width
from .run import Asked as Asked, prune as prune
