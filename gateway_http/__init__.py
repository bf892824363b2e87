"""The HTTP front: OpenAI's REST and SSE before a router. It knows the router only by its generated stubs."""
