"""Settings: `base` reads every environment variable; one thin file a mode builds on it."""
