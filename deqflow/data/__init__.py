"""Data sets and synthetic scenes."""
