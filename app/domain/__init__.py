"""Pure types and pure functions. No I/O, no clock, no settings."""
