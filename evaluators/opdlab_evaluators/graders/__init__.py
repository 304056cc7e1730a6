"""How answers to anybody's data are judged: plugins of `opdlab.graders`."""
