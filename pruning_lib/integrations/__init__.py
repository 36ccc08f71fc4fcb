"""Where people train: thin bridges to other projects' loops and networks, each imported by its own name.

`import pruning_lib` imports none of them, and none is needed for a loop of your own.
"""
