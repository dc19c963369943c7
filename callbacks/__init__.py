"""What happens beside training, without mathematics."""
