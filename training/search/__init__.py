"""The paper's search (section 4.2): which strides and MLPs a CvT should have, block by block.

One network is trained, the largest, whose weights all candidates share (`network`, `trainer`). Then
candidates are compared with these weights on training images that were held out (`evaluator`), as
Optuna's NSGA-II proposes them (`study`). `python -m training.search` does both; see `command`.
"""
