from .program import app as app, main as main
