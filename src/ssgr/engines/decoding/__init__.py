"""The decoding loop of the hf engine: needs torch, so that nothing imports it before the config is checked."""
