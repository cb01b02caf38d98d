"""Charts of the dashboard: pure functions from figures to SVG, each with its words and its table beside it."""
