"""What runs within the sandbox: the standard library alone, and no import from outside this folder."""
