"""The control plane: what the proxies are told, and what they report back."""
