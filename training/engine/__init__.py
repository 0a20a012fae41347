"""How a run trains: the step, the loop, callbacks and checkpoints."""
