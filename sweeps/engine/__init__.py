"""How a sweep runs: its declaration, its flags, its stages and its journal."""
