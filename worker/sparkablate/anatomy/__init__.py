"""Where a model's parts are: rows a model type, sites, taps, and what is wrapped around a model."""
