"""How the command shows things: tables on a terminal, JSON in a pipe, pictures where they fit."""
