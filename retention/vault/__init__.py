"""The engine's side of retention: what is stored, what holds match, copies, destruction."""
