"""Legal holds: scopes, the one matcher, states, resolution through binding history, the desk."""
