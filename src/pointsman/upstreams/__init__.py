"""Providers, the live side: calls opened, read and dropped, and which models are resting after a refusal."""
