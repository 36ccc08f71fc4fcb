"""Wrong arguments and spoilt files, by the thousand: right, or one sentence, and nothing in between.

`arguments` replaces one argument of a valid call, `files` damages what the project reads. Fast tests try some hundred
of each; ``python -m tests.fuzz arguments --tries 2000 --seed 1`` tries more, and lists what it found.
"""
