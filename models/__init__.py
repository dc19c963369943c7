"""Plain torch networks. They know neither Lightning nor DeepSpeed."""
