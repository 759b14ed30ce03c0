"""The policy's own tests: cases, runner, comparison, coverage. Entry: `runner`."""
