"""What a conversation is, below any screen: the fold the panes show, the engine, recordings."""
