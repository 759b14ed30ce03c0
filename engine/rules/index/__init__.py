"""The index that finds the rules that match an event. Entry: `rule_index.RuleIndex`."""
