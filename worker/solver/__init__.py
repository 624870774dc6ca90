"""VISION-XL in pure torch; start reading at restore.py."""
