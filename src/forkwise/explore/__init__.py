"""Where a model forks, whether it reflects, whether anything is new, whether it still reads its prompt.

`forkwise explore` is the command; `results` holds what it finds and `explore.json`. Everything works on a machine
without torch, except teacher forcing (`teacher`) and the sentence encoder.
"""
