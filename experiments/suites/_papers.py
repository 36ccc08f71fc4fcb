"""The papers whose claims are tested, by their numbers on arXiv."""

STOCHASTIC, RECEDING, SERENE, GUIDED = "2012.03827", "2204.06404", "2102.03773", "2305.18448"
READING = "The probability of a zero, its temperature and the strength of the decay could not be read: ours."
"""How every run of stochastic pruning departs from its paper."""
