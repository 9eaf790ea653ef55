"""The composition root: configuration, main, health, metrics. Decides little: it connects the rooms below."""
