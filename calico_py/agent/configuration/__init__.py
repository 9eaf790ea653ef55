"""What the agent is told: the settings, their spellings, and the configuration made of them. Decides nothing."""
