"""The providers that a policy file may name without saying more than their key. Data, and nothing else.

The only place that knows a provider by name. Every one here takes OpenAI chat completions at `base_url`.
"""

from __future__ import annotations

import msgspec


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a provider: its address, its wire format, and the variable that its key is usually in."""

    base_url: str
    dialect: str = "openai"
    variable: str | None = None


KNOWN: dict[str, Known] = {
    "openai": Known(base_url="https://api.openai.com/v1", variable="OPENAI_API_KEY"),
    "anthropic": Known(base_url="https://api.anthropic.com/v1", variable="ANTHROPIC_API_KEY"),
    "google": Known(base_url="https://generativelanguage.googleapis.com/v1beta/openai", variable="GEMINI_API_KEY"),
    "mistral": Known(base_url="https://api.mistral.ai/v1", variable="MISTRAL_API_KEY"),
    "deepseek": Known(base_url="https://api.deepseek.com/v1", variable="DEEPSEEK_API_KEY"),
    "groq": Known(base_url="https://api.groq.com/openai/v1", variable="GROQ_API_KEY"),
    "xai": Known(base_url="https://api.x.ai/v1", variable="XAI_API_KEY"),
    "together": Known(base_url="https://api.together.xyz/v1", variable="TOGETHER_API_KEY"),
    "fireworks": Known(base_url="https://api.fireworks.ai/inference/v1", variable="FIREWORKS_API_KEY"),
    "openrouter": Known(base_url="https://openrouter.ai/api/v1", variable="OPENROUTER_API_KEY"),
    "cerebras": Known(base_url="https://api.cerebras.ai/v1", variable="CEREBRAS_API_KEY"),
    "ollama": Known(base_url="http://localhost:11434/v1"),
}
