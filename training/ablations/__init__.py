"""The ablations of the paper's section 4.4: `tables` says what a row is, `results` what came out.

`python -m training.ablate` trains and tabulates them.
"""
