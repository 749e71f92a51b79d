"""Ask the gateway as any OpenAI client would: `python examples/client.py`, with `pointsman serve` running."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("POINTSMAN_URL", "http://127.0.0.1:8484/v1"), api_key="unused")
question = [{"role": "user", "content": "Who painted the ceiling of the Sistine Chapel?"}]
reply = client.chat.completions.with_raw_response.create(model="auto", messages=question)
print(reply.headers["x-pointsman-policy"], "->", reply.headers["x-pointsman-model"])
print(reply.parse().choices[0].message.content)
