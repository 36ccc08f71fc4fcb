"""What each operator does to channels: one rule a family, one family a file. What has no rule keeps its channels.

`_registry` says how a rule is written. Importing a file enters its rules into the table: name a new file here, too.
"""

from pruning_lib.channels.rules import (  # noqa: F401
    _attention,
    _channelwise,
    _concatenation,
    _elementwise,
    _gates,
    _layers,
    _norms,
    _pooling,
    _sources,
    _views,
)
from pruning_lib.channels.rules._registry import TABLE, Rule, find, is_view, literal, rule

__all__ = ["TABLE", "Rule", "find", "is_view", "literal", "rule"]
