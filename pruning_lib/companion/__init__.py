"""What the chapters and the experiments share: data sets, the papers' networks, metrics, plots, records, verdicts.

The rooms of the library know nothing of it, and nothing here is needed to prune a network of your own. It needs the
extra ``companion``.
"""
