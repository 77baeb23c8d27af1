"""How long each class of record is kept, why, and on which day a partition is to be destroyed."""
