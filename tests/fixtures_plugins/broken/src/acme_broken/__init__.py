"""A strategy whose import fails."""

raise RuntimeError("acme needs a licence file")
