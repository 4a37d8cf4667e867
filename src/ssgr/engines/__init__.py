"""Generation engines: token ids in, token ids and a finish reason out."""
