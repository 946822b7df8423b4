"""What is made of the figures: medians and ratios, tables, JSON, a plot, a page."""
