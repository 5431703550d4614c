"""What a training method sees of a token's worth: its advantages beside true ones, which resampling has measured.

`bank` holds groups of completions with the true advantages of some of their tokens, `arms` lets methods act on them by
the functions that training uses, `agreement` compares.
"""
