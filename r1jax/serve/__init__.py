"""A model behind OpenAI's API: the engine that draws rollouts, behind a queue."""
