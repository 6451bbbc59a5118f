"""What can go wrong with a configuration: one error, which names part, value, limit and remedy."""


class ConfigError(ValueError):
    """A configuration, or a file of one, cannot be used. Nothing of it was taken over."""
