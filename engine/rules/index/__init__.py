"""The index of rules: finds those that match an event among many. Entry: `rule_index.RuleIndex`."""
