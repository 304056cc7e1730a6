"""`opdlab diagnose`: supervision fidelity and its decay, measured on any student and teacher."""
