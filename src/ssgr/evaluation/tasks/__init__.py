"""lm-eval tasks of our own: one YAML a task, named like the option that asks for it."""
