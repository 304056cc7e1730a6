"""Models behind a server: vLLM, SGLang, `transformers serve`, anything that speaks OpenAI's API."""
