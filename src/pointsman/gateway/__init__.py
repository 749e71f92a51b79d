"""The gateway: an ASGI app that speaks OpenAI chat completions and routes each call by its conversation."""
