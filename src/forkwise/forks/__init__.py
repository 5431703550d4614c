"""What a token decides: how much the chance of a right answer depends on which token comes next.

`states` draws prefixes by a stated design, `continuations` continues them, `estimators` turns outcomes into numbers.
"""
