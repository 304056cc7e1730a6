from .characters import character_tokenizer as character_tokenizer
from .run import new_model as new_model, pretrain as pretrain
