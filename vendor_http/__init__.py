"""The engine that every vendor client rides on, and the words that all floors share."""
